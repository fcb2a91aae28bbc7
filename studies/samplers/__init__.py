"""What is tried next: our sampler, its acquisition function, and Optuna's own samplers.

May import `study`, `space`, `storage`, `numerics`.
"""
