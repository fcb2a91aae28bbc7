"""The search space: axes and their choices, presets, all possible configurations, probes.

May import `numerics`.
"""
