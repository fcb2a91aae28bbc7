"""Combinations of all axes: all of some at one shape, a covering array of the rest at another.

Built from the registries, so that a new entry is tested by being there.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from variants.axes import VARIANT_AXES
from variants.backends import BACKENDS
from variants.backends.kernel_package import KernelPackage, installed_versions
from variants.caches import CACHES
from variants.configuration import Configuration
from variants.device import DEVICE_PROFILES, Device, DeviceKind
from variants.gqa import GQA
from variants.precisions import PRECISIONS
from variants.score_mods import SCORE_MODS
from variants.support import unsupported_reasons
from variants.workload import Phase, Workload

MODS = (*(entry.told for entry in SCORE_MODS.values()), "softcap:2+sliding_window:30")
# A phase, or decoding with a cache.
MODES = ("prefill", "train", *CACHES)
Q_HEADS = 4
# How many key/value heads, and how they reach the backend.
HEADS: Mapping[str, tuple[int, str | None]] = {"mha": (Q_HEADS, None)} | {
    name: (2, name) for name in GQA
}
CORE: Mapping[str, tuple[str, ...]] = {
    "backend": tuple(BACKENDS),
    "precision": tuple(PRECISIONS),
    "mode": MODES,
    "score_mod": MODS,
}
# The cache is part of the mode, and gqa of the heads. An axis that one backend alone has is
# covered by a test of that backend: among all others its choices would be most of what is tried.
REST: Mapping[str, tuple[str, ...]] = {
    name: tuple(axis.registry)
    for name, axis in VARIANT_AXES.items()
    if name not in (*CORE, "cache", "gqa") and not axis.backends
}
FACTORS: Mapping[str, tuple[str, ...]] = CORE | {"heads": tuple(HEADS)} | REST
# More than one block of 128 keys, and no multiple of one; projections are rectangular.
LONG: Mapping[str, Any] = {"batch": 2, "seq_len": 150, "new_tokens": 3, "head_dim": 64}
# More tokens in a step than int8_dynamic needs; sizes that every quantization takes.
WIDE: Mapping[str, Any] = {"batch": 18, "seq_len": 37, "new_tokens": 4, "head_dim": 32}
HIDDEN_SIZE = 48

Factors = Mapping[str, str]


def packages() -> Iterator[KernelPackage]:
    """What optional backends need."""
    for backend in BACKENDS.values():
        yield from backend.all_packages


def contract_device(kind: DeviceKind) -> Device:
    """The device whose declarations are tried: with what is installed here, and no more."""
    if kind == "cpu":
        return DEVICE_PROFILES["cpu"].device
    here = installed_versions(packages())
    return DEVICE_PROFILES["h100"].device.model_copy(update={"kernel_packages": here})


def configure(factors: Factors, shape: Mapping[str, Any]) -> Configuration:
    """Factors that are left out are the simplest."""
    mode = factors["mode"]
    kv_heads, gqa = HEADS[factors.get("heads", "mha")]
    workload = _workload(mode, kv_heads, factors["score_mod"], tuple(shape.items()))
    choices = {axis: factors[axis] for axis in VARIANT_AXES if axis in factors}
    cache = mode if mode in CACHES else None
    return Configuration.of(workload, choices | {"cache": cache, "gqa": gqa})


@functools.cache
def _workload(
    mode: str, kv_heads: int, score_mod: str, shape: tuple[tuple[str, Any], ...]
) -> Workload:
    return Workload(
        phase=Phase.DECODE if mode in CACHES else Phase(mode),
        q_heads=Q_HEADS,
        kv_heads=kv_heads,
        hidden_size=HIDDEN_SIZE,
        score_mod=score_mod,
        **dict(shape),
    )


def product(factors: Mapping[str, Iterable[str]]) -> Iterator[dict[str, str]]:
    for values in itertools.product(*factors.values()):
        yield dict(zip(factors, values, strict=True))


@dataclass(frozen=True)
class Divided:
    """Combinations by what is declared about them, those that mean the same once."""

    generated: int
    supported: tuple[Configuration, ...]
    refused: Counter[str]  # by first reason


def factorial(device: Device) -> Divided:
    """Every backend × precision × mode × score_mod, at one shape."""
    return _divide(product(CORE), LONG, device)


def _divide(rows: Iterable[Factors], shape: Mapping[str, Any], device: Device) -> Divided:
    found = {c.key: c for c in (configure(factors, shape) for factors in rows)}
    reasons = {key: unsupported_reasons(c, device) for key, c in found.items()}
    return Divided(
        len(found),
        tuple(c for key, c in found.items() if not reasons[key]),
        Counter(why[0] for why in reasons.values() if why),
    )


@functools.lru_cache(maxsize=4)
def _every_supported(device_json: str) -> dict[str, Configuration]:
    """All axes together, at the other shape, by key.

    Other choices than the simplest only add reasons, so what the core refuses is not asked again.
    """
    device = Device.model_validate_json(device_json)
    rows: Iterable[dict[str, str]] = product(CORE | {"heads": tuple(HEADS)})
    running = _running(rows, device)
    for axis in REST:
        # One axis at a time: each of its values must go with the core before all are combined.
        rows = (row | {axis: value} for row, _ in running for value in REST[axis])
        running = _running(rows, device)
    return {c.key: c for _, c in running}


def _running(
    rows: Iterable[dict[str, str]], device: Device
) -> list[tuple[dict[str, str], Configuration]]:
    """Return what is supported, once where an axis means nothing."""
    configured: dict[str, tuple[dict[str, str], Configuration]] = {}
    for row in rows:
        configuration = configure(row, WIDE)
        configured.setdefault(configuration.key, (row, configuration))
    return [(row, c) for row, c in configured.values() if not unsupported_reasons(c, device)]


@dataclass(frozen=True)
class Covering:
    rows: tuple[Configuration, ...]
    pool: int  # supported combinations that the rows stand for
    interactions: int


def covering(
    device: Device, strength: int, only: Callable[[Configuration], bool] = lambda _: True
) -> Covering:
    """Configurations in which every possible choice of `strength` axes appears.

    Greedy, after Cohen, Dalal, Fredman and Patton, The AETG System, IEEE TSE 23(7), 1997: take a
    combination that no row has yet, and of some rows that have it the one with the most new ones.
    """
    every = _every_supported(device.model_dump_json())
    pool = {key: c for key, c in every.items() if only(c)}
    interactions = {key: _interactions(c, strength, device) for key, c in pool.items()}
    holders: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for key, found in interactions.items():
        for interaction in found:
            holders.setdefault(interaction, []).append(key)
    chance = random.Random(0)
    missing = dict.fromkeys(holders)
    rows = []
    # The rarest first: what comes with nearly everything is covered on the way.
    for interaction in sorted(holders, key=lambda i: len(holders[i])):
        if interaction not in missing:
            continue
        keys = holders[interaction]
        tried = keys if len(keys) < 30 else chance.sample(keys, 30)
        best = max(tried, key=lambda key: sum(i in missing for i in interactions[key]))
        rows.append(pool[best])
        for covered in interactions[best]:
            missing.pop(covered, None)
    return Covering(tuple(rows), len(pool), len(holders))


def factors_of(configuration: Configuration) -> dict[str, str]:
    """The factors of a configuration, without those that mean nothing for it."""
    workload, variant = configuration.workload, configuration.variant
    values = {
        "mode": variant.cache or workload.phase.value,
        "heads": variant.gqa or "mha",
        "score_mod": workload.score_mod,
        **variant.model_dump(exclude={"cache", "gqa"}, exclude_none=True),
    }
    return {axis: values[axis] for axis in FACTORS if axis in values}


def _interactions(
    configuration: Configuration, strength: int, device: Device
) -> list[tuple[tuple[str, str], ...]]:
    factors = factors_of(configuration)
    # Which combinations of backend, precision and kv_dtype make it is a factor of its own.
    support = BACKENDS[factors["backend"]].support[device.kind]
    fused = factors["precision"] in support.reads_stored.get(factors.get("kv_dtype", ""), ())
    factors["reads"] = "stored" if fused else "decoded"
    return list(itertools.combinations(factors.items(), strength))


def refused_for_one_reason(device: Device, each: int) -> dict[str, list[Configuration]]:
    """A few combinations for every reason that alone stands against one.

    Each is a possible one, drawn at random, with another choice for one of its axes.
    """
    chance = random.Random(0)
    possible = list(_every_supported(device.model_dump_json()).values())
    found: dict[str, dict[str, Configuration]] = {}
    for draw in range(8000):
        axis = chance.choice(tuple(FACTORS))
        row = factors_of(chance.choice(possible)) | {axis: chance.choice(FACTORS[axis])}
        configuration = configure(row, WIDE if draw % 4 else LONG)
        reasons = unsupported_reasons(configuration, device)
        if len(reasons) == 1:
            found.setdefault(reasons[0], {}).setdefault(configuration.key, configuration)
    # Those that need no compiler first: they take no time.
    return {
        reason: sorted(some.values(), key=lambda c: c.variant.compiles)[:each]
        for reason, some in sorted(found.items())
    }


def coverage_lines(kinds: Iterable[DeviceKind]) -> Iterator[str]:
    """Say what was generated for a kind of device, and what was left out for which reason."""
    for kind in sorted(kinds):
        device = contract_device(kind)
        divided = factorial(device)
        yield (
            f"{kind}: full factorial of {divided.generated}, of which {len(divided.supported)} "
            f"are declared to run"
        )
        for reason, count in divided.refused.most_common():
            yield f"  {count:>5}  {reason}"
        array = covering(device, 3)
        yield (
            f"{kind}: {array.interactions} interactions of three axes among {array.pool} more "
            f"combinations, covered by {len(array.rows)}"
        )
