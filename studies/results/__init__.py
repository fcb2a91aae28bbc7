"""What a study found: fronts, winners, summaries, convergence, and the words for them.

May import `study`, `space`, `storage`, `numerics`.
"""
