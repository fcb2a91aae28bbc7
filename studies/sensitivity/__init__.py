"""Which axes drive memory and latency: effects over all possible configurations, with doubt.

May import `samplers`, `results`, `study`, `space`, `storage`, `numerics`.
"""
