"""How long a step takes: the held stream, passes, samples, the host's share, and doubt.

May import `metrics`, `roofline`, `process`, `schema` and, below them, `variants`.
"""
