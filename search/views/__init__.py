"""What is shown: tables, verdicts and progress on a terminal.

May import nothing else of `search`.
"""
