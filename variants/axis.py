"""What an axis is: one searched dimension of a configuration, declared once.

The command line, the search space, configurations, support rules, tables and docs/axes.md all
follow from the declarations in `variants.axes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic

from variants.device import Device, DeviceKind
from variants.registry import Entry, Registry
from variants.workload import Workload

LARGEST = 2**31 - 1  # that an axis may hold; larger ones are no shapes of tensors

Choice = int | str
Chosen = Mapping[str, Any]  # choices by variant axis; an axis without one is absent or None
# Yields reasons against a `Configuration`, whose module stands higher, on a device.
Rule = Callable[[Any, Device], Iterator[str]]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis of the workload (context), or, as a `VariantAxis`, of the variant (a decision)."""

    name: str
    summary: str
    numeric: bool = False  # choices are positive integers, else names
    names: tuple[str, ...] | None = None  # which it may hold; None: any that `canonical` can read
    canonical: Callable[[str], str] | None = None  # returns a name's one spelling, or raises
    registry: Registry[Any] | None = None  # what docs/axes.md lists

    of_variant: ClassVar[bool] = False

    @property
    def help(self) -> str:
        """What an option and a table of choices say of it."""
        return self.summary

    @property
    def known(self) -> tuple[str, ...] | None:
        """The names that it may hold now, those of plugins included; None where any will do."""
        return self.names

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
        if self.canonical is not None:
            return self.canonical(choice)
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

    def written(self, entry: str) -> str:
        """Return an entry of the registry as it is written on a command line, `softcap:50`."""
        return entry if self.canonical is None else self.canonical(entry)


@dataclass(frozen=True, kw_only=True)
class VariantAxis(Axis, Generic[Entry]):
    """One decision. Its choices are the entries of a registry, from simple to elaborate."""

    registry: Registry[Entry]
    choosable: Callable[[Entry], bool] | None = None  # None: each entry may be searched
    # Where it means something; None: always. It may look at the choices of the axes in `reads`.
    when: Callable[[Workload, Chosen], bool] | None = None
    reads: tuple[str, ...] = ()
    # What is searched where the user names nothing, on any device or by its kind; None: all.
    searched: tuple[str, ...] | None = None
    searched_on: Mapping[DeviceKind, tuple[str, ...]] = field(default_factory=dict)
    label: str = "{}"  # how a choice stands in the name of a variant
    says_default: bool = False  # the name of a variant holds it even where it is the default
    # The backends that alone have it (`Backend.axes`); empty: all do.
    backends: tuple[str, ...] = ()
    rules: Mapping[Rule, tuple[str, ...]] = field(default_factory=dict)  # see `support.RULES`

    of_variant: ClassVar[bool] = True

    @property
    def help(self) -> str:
        only = f" (of {', '.join(self.backends)} alone)" if self.backends else ""
        return f"{self.summary}{only}"

    @property
    def known(self) -> tuple[str, ...]:
        """The names that a search may choose from, those of plugins included."""
        entries = self.registry.values()
        return tuple(e.name for e in entries if self.choosable is None or self.choosable(e))

    @property
    def default(self) -> str:
        """The simplest choice, taken where the axis is active and nothing is said."""
        return next(iter(self.registry))

    @property
    def depends_on(self) -> tuple[str, ...]:
        """The variant axes whose choices decide whether this one is active."""
        return ("backend", *self.reads) if self.backends else self.reads

    def active(self, workload: Workload, chosen: Chosen) -> bool:
        """Tell whether the axis means something for a workload and the other choices."""
        if self.backends and chosen.get("backend") not in self.backends:
            return False
        return self.when is None or self.when(workload, chosen)

    def searched_unless_named(self, kind: DeviceKind) -> tuple[str, ...]:
        """Return what is searched on a kind of device where the user names no choice."""
        return self.searched_on.get(kind) or self.searched or self.known

    def said(self, choice: str) -> str | None:
        """Return how the name of a variant tells a choice; None where it goes without saying."""
        usual = choice == self.default and not self.says_default
        return None if usual else self.label.format(choice)

    def of(self, variant: object) -> Entry | None:
        """Return the entry that a `Variant` chose; None where the axis is inactive."""
        choice = getattr(variant, self.name)
        return None if choice is None else self.registry[choice]
