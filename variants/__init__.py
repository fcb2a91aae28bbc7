"""What is run? Workloads, attention variants, what a device supports, and the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from variants.deploy.loading import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Import `load` when it is first used: it needs torch, which most importers do not."""
    if name == "load":
        from variants.deploy.loading import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
