"""Numbers without names: the Gaussian process, hypervolumes, arrays, threads.

May import nothing of ours. Its `__init__` stays empty: naming a matrix must not import SciPy.
"""
