"""The record of a search: plan, trials, attributes, anchors, finalists, verdicts.

May import `space`, `storage`.
"""
