"""The record of a search: plan, trials, attributes, baselines, anchors, finalists, verdicts.

May import `space`, `storage`, `numerics`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studies.study.study import load_study, open_storage

__all__ = ["load_study", "open_storage"]


def __getattr__(name: str) -> Any:
    """Import them when they are first used: they need Optuna, which verdicts alone do not."""
    if name in __all__:
        from studies.study import study

        return getattr(study, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
