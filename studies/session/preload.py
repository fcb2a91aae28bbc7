"""Imports, while devices start, what is slow to import and needed once trials begin."""

from __future__ import annotations

import threading
from contextlib import suppress


def preload_in_background() -> None:
    """Import optuna-dashboard and the surrogate in a thread; who needs them sooner waits."""
    threading.Thread(target=_import, name="imports").start()


def _import() -> None:
    with suppress(RuntimeError):  # the process ends already, and takes no thread pools any more
        import optuna_dashboard  # noqa: F401

        import studies.samplers.goldilocks  # noqa: F401
