"""What one run of steps shows beside time: error, peak memory, kernels, operators.

May import `schema` and, below it, `variants`.
"""
