"""What is measured, as data: pydantic models that cross processes and are stored.

May import `variants` alone.
"""
