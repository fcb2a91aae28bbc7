"""Samplers scored on a recorded table, in simulated time, without a device.

May import `results`, `samplers`, `study`, `space`, `storage`, `numerics`.
"""
