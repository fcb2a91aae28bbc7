"""What a winner is worth in a whole model: default and winner generate in turns.

May import `schema` and, below it, `variants`. Only `schema.py` does without transformers.
"""
