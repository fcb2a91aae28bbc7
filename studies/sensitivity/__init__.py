"""Which axes drive memory and latency: effects over all possible configurations, with doubt."""
