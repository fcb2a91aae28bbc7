"""What does one configuration cost? Latency, peak memory and error, in an isolated process."""
