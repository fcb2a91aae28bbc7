"""The search space: the choices of every axis, and which of their combinations are possible."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from variants.axes import AXES, Choice
from variants.configuration import Configuration, active_choices, activity
from variants.device import Device
from variants.support import reasons_by_variant, support_kind
from variants.user_error import UserError
from variants.variant import Variant
from variants.workload import Workload


class SpaceExhausted(Exception):
    """Every possible configuration has been tried."""


class SpaceError(UserError):
    """A space that cannot be searched."""


class SearchSpace(BaseModel):
    """Choices by axis. A pinned axis has one; an axis that is absent has its field's default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    axes: dict[str, tuple[Choice, ...]]

    @field_validator("axes")
    @classmethod
    def _known_choices(cls, axes: dict[str, tuple[Choice, ...]]) -> dict[str, tuple[Choice, ...]]:
        for name, choices in axes.items():
            axis = AXES[name]
            if not choices:
                raise ValueError(f"{name} must have a choice, got none")
            for choice in choices:
                axis.check(choice)
        # In the registry's order, whatever the order they were written in.
        return {
            name: tuple(dict.fromkeys(AXES[name].check(choice) for choice in axes[name]))
            for name in AXES
            if name in axes
        }

    @property
    def searched(self) -> dict[str, tuple[Choice, ...]]:
        """The axes with more than one choice: these are the parameters of trials."""
        return {name: choices for name, choices in self.axes.items() if len(choices) > 1}

    def workloads(self) -> tuple[Workload, ...]:
        """Return every workload once.

        Raises:
            SpaceError: A combination is not a workload (its heads do not divide, say).
        """
        unique: dict[str, Workload] = {}
        for choices in self._product(of_variant=False):
            try:
                workload = Workload.model_validate(choices)
            except ValidationError as error:
                raise SpaceError(_first_message(error)) from None
            unique.setdefault(workload.key, workload)
        return tuple(unique.values())

    def variants(self, workload: Workload) -> tuple[Variant, ...]:
        """Return every variant of `workload` once, without inactive axes."""
        active = (active_choices(workload, c) for c in self._product(of_variant=True))
        unique = {tuple(choices.items()): choices for choices in active}
        return tuple(Variant.model_validate(choices) for choices in unique.values())

    def configuration(self, params: Mapping[str, Choice]) -> Configuration:
        """Return the configuration of a trial's parameters, pinned axes filled in."""
        chosen = {name: params.get(name, choices[0]) for name, choices in self.axes.items()}
        workload = Workload.model_validate({n: c for n, c in chosen.items() if not _decides(n)})
        return Configuration.of(workload, {n: c for n, c in chosen.items() if _decides(n)})

    def _product(self, *, of_variant: bool) -> Iterator[dict[str, Choice]]:
        names = [name for name in self.axes if _decides(name) == of_variant]
        for choices in itertools.product(*(self.axes[name] for name in names)):
            yield dict(zip(names, choices, strict=True))


def _decides(axis: str) -> bool:
    return AXES[axis].of_variant


def _first_message(error: ValidationError) -> str:
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    field_name = ".".join(str(part) for part in first["loc"])
    return f"{field_name}: {message}, got {first['input']}" if field_name else message


@dataclass(frozen=True, slots=True)
class Survey:
    """A space on a device: what is possible, and why the rest is not."""

    space: SearchSpace
    workloads: tuple[Workload, ...]
    possible: Mapping[str, tuple[Variant, ...]]  # by workload key
    impossible: Counter[str] = field(default_factory=Counter)  # combinations by first reason

    @property
    def size(self) -> int:
        """How many configurations can be measured."""
        return sum(len(variants) for variants in self.possible.values())

    def configurations(self) -> Iterator[Configuration]:
        """Yield them, workload by workload."""
        for workload in self.workloads:
            for variant in self.possible[workload.key]:
                # Known to be valid: validating again would take most of a large space's time.
                yield Configuration.model_construct(workload=workload, variant=variant)


def survey(space: SearchSpace, device: Device) -> Survey:
    """Divide the combinations of `space` into those that `device` supports and the rest.

    Raises:
        SpaceError: The space holds something that is not a workload, or nothing is possible.
    """
    possible: dict[str, tuple[Variant, ...]] = {}
    impossible: Counter[str] = Counter()
    workloads = space.workloads()
    # Variants depend on a workload through the axes that mean nothing for it: few of many differ.
    of_kind: dict[object, tuple[Variant, ...]] = {}
    divided: dict[object, tuple[tuple[Variant, ...], Counter[str]]] = {}
    for workload in workloads:
        kind = activity(workload, space.axes)
        if kind not in of_kind:
            of_kind[kind] = space.variants(workload)
        what = support_kind(workload)
        if what not in divided:
            divided[what] = _divide(workload, of_kind[kind], device)
        possible[workload.key], reasons = divided[what]
        impossible.update(reasons)
    if not any(possible.values()):
        why = "; ".join(f"{reason} ({count})" for reason, count in impossible.most_common(3))
        raise SpaceError(f"no combination of the space can run on {device.name}: {why}")
    return Survey(space, workloads, possible, impossible)


def _divide(
    workload: Workload, variants: Sequence[Variant], device: Device
) -> tuple[tuple[Variant, ...], Counter[str]]:
    """Return the variants that a device supports, and how many it does not by first reason."""
    supported, impossible = [], Counter[str]()
    reasons_of = reasons_by_variant(workload, device)
    for variant in variants:
        reasons = reasons_of(variant)
        if reasons:
            impossible[reasons[0]] += 1
        else:
            supported.append(variant)
    return tuple(supported), impossible


def fill_defaults(
    choices: Mapping[str, Sequence[Choice]], defaults: Mapping[str, Sequence[Choice]]
) -> SearchSpace:
    """Return the space of the user's choices, with `defaults` for the axes that are left out."""
    return SearchSpace(
        axes={
            name: tuple(choices.get(name) or defaults[name])
            for name in AXES
            if name in choices or name in defaults
        }
    )
