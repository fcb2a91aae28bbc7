"""Processes that measure for the parent: starting, talking to, placing and killing them.

May import `variants` alone: what is said in a message is its callers' business.
"""
