"""What a new length costs a configuration, and whether it is a property of it.

A backend that plans each shape, or a layer that is compiled for each, makes every new length wait.
A busy machine can look like it. So a cost above the limit is believed only where it repeats at
other lengths, in a second look; on a CPU, where no backend plans, only where the compiler ran.
Plans outlive the trial that paid for them, and are remembered for those that use them, too.
"""

from __future__ import annotations

from variants.backends import BACKENDS
from variants.caches import CACHES
from variants.configuration import Configuration

LEAST_LENGTHS = 4  # of a second look: of two, the second may be the one that settles all others

_Shapes = tuple[object, ...]


class NewLengthCosts:
    """Costs of new lengths that trials of one process paid, by the shapes that were planned."""

    def __init__(self) -> None:
        self._known: dict[_Shapes, float] = {}  # ms

    def of(
        self, configuration: Configuration, ran: str | None, grows: bool, measured: float | None
    ) -> float | None:
        """Return the cost in ms: what was measured, or what an earlier trial paid if that is more.

        A library's plan outlives its trial, and fits other variants that attend to keys of the
        same shapes: whichever of them came first has paid.

        Args:
            configuration: What was measured.
            ran: The backend that ran.
            grows: Whether shapes differ between steps.
            measured: The cost in this trial, in ms; None where there are no new lengths.
        """
        if measured is None or not _plans(ran, grows):
            return measured
        return max(measured, self._known.get(_shapes(configuration), 0.0))

    def learn(
        self, configuration: Configuration, ran: str | None, grows: bool, cost: float
    ) -> None:
        """Remember a cost that is believed, for trials that find its plans made."""
        if _plans(ran, grows):
            shapes = _shapes(configuration)
            self._known[shapes] = max(cost, self._known.get(shapes, 0.0))


def at_other_lengths(configuration: Configuration) -> Configuration:
    """Return the configuration at lengths beyond its own, for a second look."""
    workload = configuration.workload
    others = {
        "seq_len": workload.seq_len + workload.new_tokens,
        "new_tokens": max(LEAST_LENGTHS, workload.new_tokens),
    }
    return configuration.model_copy(update={"workload": workload.model_copy(update=others)})


def _plans(ran: str | None, grows: bool) -> bool:
    return ran is not None and BACKENDS[ran].plans_each_shape and grows


def _shapes(configuration: Configuration) -> _Shapes:
    variant = configuration.variant
    reuses = variant.cache is not None and CACHES[variant.cache].reuses
    return configuration.workload.key, variant.precision, variant.gqa, reuses
