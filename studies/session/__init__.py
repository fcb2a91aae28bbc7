"""A search that is under way: workers, trials, anchors, defaults, finalists.

May import `samplers`, `results`, `study`, `space`, `storage`, `numerics`.
"""
