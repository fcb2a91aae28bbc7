"""What a user may say on the command line: options, settings, choices of axes, plugins.

May import `search.runner` and, below it, `studies`, `objectives` and `variants`.
"""
