"""The decoder attention layer that is measured: its inputs, its steps, and the oracle.

May import the registries of choices, `workload`, `variant`, `configuration` and `device`.
"""
