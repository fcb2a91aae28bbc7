"""What takes seconds to import and is needed once a run has begun to measure."""

from __future__ import annotations

import threading


def preload_in_background() -> None:
    """Import it in a thread, while the devices start. Whoever needs it sooner waits for it."""
    threading.Thread(target=_import, name="imports").start()


def _import() -> None:
    import optuna_dashboard  # noqa: F401

    import studies.samplers.goldilocks  # noqa: F401
