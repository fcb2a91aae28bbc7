"""Databases that Optuna writes, and whose they are: URLs, locks, heartbeats, files.

Knows no type of this product. May import nothing of `studies`.
"""
