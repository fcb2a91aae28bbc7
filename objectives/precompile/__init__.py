"""Compiling what is likely to be tried next, in processes of its own beside the measuring one.

May import `roofline`, `metrics`, `process`, `schema` and, below them, `variants`.
"""
