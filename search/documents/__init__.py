"""What commands print with `--json`: one document each, whose keys docs/json.md lists.

May import `search.views` and, below it, `studies`, `objectives` and `variants`.
"""
