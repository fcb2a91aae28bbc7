"""The configurations that the drivers use, and what all of them need."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Annotated, Any, TypeVar

import torch
import typer

from objectives.schema.limits import Limits
from objectives.timing.compare import PreparedRun, prepare_run
from objectives.trial.evaluator import Evaluator
from variants.configuration import Configuration
from variants.detect import detect_device
from variants.device import Device, DeviceKind
from variants.support import unsupported_reasons
from variants.workload import Phase, Workload

T = TypeVar("T")
Minutes = Annotated[float, typer.Option(help="Stop after so many, with what is there by then.")]
Count = Annotated[int, typer.Option(min=1, help="Configurations.")]


def kind_here() -> DeviceKind:
    """Return what this machine measures on."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def cases(device: Device, count: int, *, seed: int = 0) -> list[Configuration]:
    """Return `count` configurations that are spread over decode and prefill, in a random order."""
    everything = list(_decode(device)) + list(_prefill(device))
    supported = [c for c in everything if not unsupported_reasons(c, device)]
    random.Random(seed).shuffle(supported)
    return supported[:count]


def _decode(device: Device) -> Iterator[Configuration]:
    cuda = device.kind == "cuda"
    shapes = [(1, 512), (4, 2048), (16, 2048), (4, 8192)] if cuda else [(1, 64), (2, 128)]
    for batch, seq_len in shapes:
        heads = 16 if cuda else 2
        workload = Workload(batch=batch, seq_len=seq_len, q_heads=heads, new_tokens=8)
        for backend in ("flash", "cudnn", "efficient", "math"):
            for cache in ("static", "concat"):
                for execution in ("eager", "cuda_graph"):
                    yield _of(workload, device, backend, cache=cache, execution=execution)


def _prefill(device: Device) -> Iterator[Configuration]:
    cuda = device.kind == "cuda"
    shapes = [(1, 512), (4, 2048), (8, 4096)] if cuda else [(1, 128)]
    for batch, seq_len in shapes:
        heads = 16 if cuda else 2
        workload = Workload(phase=Phase.PREFILL, batch=batch, seq_len=seq_len, q_heads=heads)
        for backend in ("flash", "cudnn", "efficient", "math"):
            if backend != "math" or batch * seq_len <= 8192:
                yield _of(workload, device, backend)


def compiled_cases(device: Device, count: int) -> list[Configuration]:
    """Return `count` configurations of compiled layers, whose kernels Inductor chooses."""
    cuda = device.kind == "cuda"
    found = []
    for seq_len in (1024, 2048) if cuda else (64,):
        decode = Workload(seq_len=seq_len, q_heads=16 if cuda else 2, new_tokens=8)
        prefill = decode.model_copy(update={"phase": Phase.PREFILL})
        for backend in ("flex", "math"):
            for cache in ("concat", "static"):
                found.append(_of(decode, device, backend, cache=cache, execution="compiled"))
            found.append(_of(prefill, device, backend, execution="compiled"))
    return [c for c in found if not unsupported_reasons(c, device)][:count]


def _of(workload: Workload, device: Device, backend: str, **choices: str) -> Configuration:
    precision = "bf16" if device.kind == "cuda" else "fp32"
    chosen = {"backend": backend, "precision": precision, **choices}
    return Configuration.of(workload, chosen)


def sdpa_cases(device: Device, count: int) -> list[Configuration]:
    """Return `count` configurations of SDPA and written-out attention, none of them compiled."""
    cuda = device.kind == "cuda"
    found = []
    for seq_len in range(512, 4096, 256) if cuda else range(32, 512, 16):
        for batch in (1, 4):
            workload = Workload(batch=batch, seq_len=seq_len, q_heads=16 if cuda else 2)
            for backend in ("flash", "efficient", "math", "eager"):
                for precision in ("bf16", "fp16"):
                    for cache in ("static", "concat"):
                        choices = {"backend": backend, "precision": precision, "cache": cache}
                        found.append(Configuration.of(workload, choices))
    supported = [c for c in found if not unsupported_reasons(c, device)]
    random.Random(0).shuffle(supported)
    return supported[:count]


def evaluator(sampling_s: float) -> Evaluator:
    """Return an evaluator of this process, warm."""
    return Evaluator(detect_device(kind_here()), Limits(sampling_s=sampling_s), seed=0)


def prepared(of: Evaluator, configuration: Configuration) -> PreparedRun:
    """Build and warm a configuration beside whatever else is alive."""
    return prepare_run(configuration, torch.device(of.device.kind), of.seed, of.stream)


def within(items: Iterable[T], minutes: float) -> Iterator[T]:
    """Yield items until the time is up, and say so."""
    deadline = time.monotonic() + 60 * minutes
    for number, item in enumerate(items):
        if time.monotonic() > deadline:
            print(f"time is up after {number}", flush=True)
            return
        yield item


def in_a_process(work: Callable[..., T], *arguments: Any) -> T:
    """Do `work` in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def spread(values: Sequence[float]) -> float:
    """Return largest / smallest − 1."""
    return max(values) / min(values) - 1


def say_spreads(name: str, spreads: Sequence[float], most: float, usual: float | None) -> None:
    """Print the median and the largest of some spreads beside what is wanted."""
    wanted = f"wanted: every one ≤ {most:.1%}"
    wanted += "" if usual is None else f", median ≤ {usual:.1%}"
    within_limit = sum(value <= most for value in spreads) / len(spreads)
    print(
        f"{name}: median {statistics.median(spreads):.2%}, largest {max(spreads):.2%}, "
        f"{within_limit:.0%} within {most:.1%} of {len(spreads)} ({wanted})",
        flush=True,
    )
