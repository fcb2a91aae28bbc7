"""What a study found: fronts, winners, summaries, convergence, and the words for them.

May import `study`, `space`, `storage`, `numerics`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studies.results.results import as_table, read_results

__all__ = ["as_table", "read_results"]


def __getattr__(name: str) -> Any:
    """Import them when they are first used: they need Optuna, which labels alone do not."""
    if name in __all__:
        from studies.results import results

        return getattr(results, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
