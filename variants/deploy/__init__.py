"""Exported winners as working attention: loading a file, dispatching calls, keeping a cache.

May import `layer`, `support` and all that they may; `variants.hf` stands above it.
"""
