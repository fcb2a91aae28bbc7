"""A search under way: its workers, calibration by anchors, defaults, trials, finalists.

May import `samplers`, `results`, `study`, `space`, `storage`, `numerics`.
"""
