"""What is shown: tables, verdicts and progress on a terminal.

May import `search.runner` and `search.options`.
"""
