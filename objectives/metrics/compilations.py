"""Whether PyTorch compiles anything, as a context around what may."""

from __future__ import annotations

import contextlib
import sys
from types import TracebackType


class Compilations:
    """Counts what PyTorch's compiler compiles inside of the block.

    Where the compiler was not imported before the block, nothing is counted: whoever compiles
    imports it when it builds its layer.
    """

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Compilations:
        """Hear of compilations from here on."""
        if "torch._dynamo" in sys.modules:
            from torch._dynamo.callback import callback_handler

            callback_handler.register_start_callback(self._add)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Hear of no more."""
        if "torch._dynamo" in sys.modules:
            from torch._dynamo.callback import callback_handler

            with contextlib.suppress(ValueError):  # it was imported inside, or reset
                callback_handler.remove_start_callback(self._add)

    def _add(self, compilation: object = None) -> None:
        self.count += 1
