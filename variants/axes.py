"""All axes of a configuration: what a user may pin, list or leave to the defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from variants.registry import Registry
from variants.score_mods import parse_score_mod
from variants.variant import VARIANT_AXES
from variants.workload import Phase

LARGEST = 2**31 - 1  # that an axis may hold; larger ones are no shapes of tensors

Choice = int | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One searched dimension: of the workload (context) or of the variant (a decision)."""

    name: str
    summary: str
    of_variant: bool
    numeric: bool = False
    names: Callable[[], tuple[str, ...]] | None = None  # which it may hold; None: any will do

    @property
    def known(self) -> tuple[str, ...] | None:
        """The names that it may hold now, those of plugins included; None where any will do."""
        return None if self.names is None else self.names()

    def check(self, choice: Choice) -> Choice:
        """Return the choice in its canonical form.

        Raises:
            ValueError: It has the wrong type, or is not a name that this axis knows.
            UnknownChoiceError: The same, of a score_mod.
        """
        if self.numeric:
            if isinstance(choice, bool) or not isinstance(choice, int) or choice < 1:
                raise ValueError(f"{self.name} must be a positive integer, got {choice!r}")
            if choice > LARGEST:  # and maybe too large to be printed
                raise ValueError(f"{self.name} must be at most {LARGEST}, got more")
            return choice
        if not isinstance(choice, str):
            raise ValueError(f"{self.name} must be a name, got {choice!r}")
        if self.name == "score_mod":
            return parse_score_mod(choice).canonical
        if self.known is not None and choice not in self.known:
            raise ValueError(f"{self.name} must be one of {', '.join(self.known)}; got {choice}")
        return choice

    def parse(self, text: str) -> tuple[Choice, ...]:
        """Read `1,4,16` or `math,flash`; raises as `check` does."""
        choices: list[Choice] = []
        for part in (part.strip() for part in text.split(",")):
            digits = self.numeric and part.isascii() and part.isdigit()
            choices.append(self.check(int(part) if digits else part))
        return tuple(dict.fromkeys(choices))


def _searched(axis: str) -> tuple[str, ...]:
    entries = VARIANT_AXES[axis].values()
    return tuple(entry.name for entry in entries if getattr(entry, "searched", True))


AXES: Mapping[str, Axis] = Registry(
    "axis",
    [
        Axis(
            name="phase",
            summary="what the layer does",
            of_variant=False,
            names=lambda: tuple(phase.value for phase in Phase),
        ),
        Axis(name="batch", summary="sequences", of_variant=False, numeric=True),
        Axis(
            name="seq_len",
            summary="tokens of context: the prompt, or the filled cache",
            of_variant=False,
            numeric=True,
        ),
        Axis(
            name="new_tokens",
            summary="consecutive decode steps that are measured",
            of_variant=False,
            numeric=True,
        ),
        Axis(name="q_heads", summary="query heads", of_variant=False, numeric=True),
        Axis(
            name="kv_heads",
            summary="key/value heads (as many as query heads if not given)",
            of_variant=False,
            numeric=True,
        ),
        Axis(name="head_dim", summary="elements of a head", of_variant=False, numeric=True),
        Axis(
            name="hidden_size",
            summary="elements of a token (q_heads · head_dim if not given)",
            of_variant=False,
            numeric=True,
        ),
        Axis(name="layers", summary="layers of the model", of_variant=False, numeric=True),
        Axis(
            name="score_mod",
            summary="what the model does to its scores: name, name:parameter, or several by +",
            of_variant=False,
        ),
        *(
            Axis(name=name, summary=summary, of_variant=True, names=partial(_searched, name))
            for name, summary in {
                "backend": "how softmax(QKᵀ)V is computed",
                "precision": "of weights and activations",
                "quantization": "of the projections",
                "cache": "where past keys and values are kept (decode)",
                "kv_dtype": "in which numbers a cache keeps them (decode)",
                "gqa": "how grouped heads reach a backend",
                "execution": "how operations are launched",
            }.items()
        ),
    ],
)
