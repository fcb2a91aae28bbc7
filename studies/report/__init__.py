"""The report: a study as one HTML file that needs no network and can be sent to a colleague.

May import `sensitivity`, `results`, `study`, `space`, `storage`, `numerics`.
"""
