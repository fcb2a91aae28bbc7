"""The least time and memory that a configuration needs on a device, and what follows from it.

May import `schema` and, below it, `variants`.
"""
