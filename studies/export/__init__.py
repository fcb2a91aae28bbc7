"""The JSON of the winners: writing it, choosing one for a whole model, checking its claims.

May import `results`, `study`, `space`, `storage`, `numerics`.
"""
