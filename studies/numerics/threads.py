"""One thread of BLAS for small matrices: more wait for each other longer than they compute."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager

from threadpoolctl import ThreadpoolController


def one_thread() -> AbstractContextManager[object]:
    """Return a context in which BLAS computes on one thread, in this whole process."""
    limit: AbstractContextManager[object] = _controller().limit(limits=1, user_api="blas")
    return limit


@functools.cache
def _controller() -> ThreadpoolController:
    """Return the controller of the BLAS libraries; looking for them is slow, so once."""
    return ThreadpoolController()
