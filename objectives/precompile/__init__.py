"""Compiling what is likely to be tried next, in processes of its own beside the measuring one.

May import `process`, `metrics`, `schema` and, below them, `variants`.
"""
