"""A study in optuna-dashboard: the note beside it, the figures in it, the server.

May import every other folder of `studies`.
"""
