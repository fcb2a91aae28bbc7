"""One trial from the parent's side (`bench`) to the measuring process's (`trial_handler`).

May import every other folder of `objectives`.
"""
