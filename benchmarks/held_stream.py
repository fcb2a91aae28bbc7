"""Steps that a held stream could hang on or lie about: they synchronise, allocate, or are many."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import typer

from benchmarks.cases import evaluator, kind_here
from objectives.timing.held_stream import Hold


def main(samples: int = 40) -> None:
    """Sample each step, and compare what counted as held with the step's own time."""
    if kind_here() == "cpu":
        print("there is no stream to hold on a CPU: nothing is tried")
        return
    stream = evaluator(0.1).stream
    assert stream is not None
    tensor = torch.ones(1024, device="cuda")

    def item() -> object:
        return tensor.add_(1).sum().item()

    def allocate() -> None:
        torch.cuda.empty_cache()  # so that the next allocation is a cudaMalloc
        torch.empty(2**28, dtype=torch.int8, device="cuda")

    def many() -> None:
        for _ in range(2000):
            tensor.add_(1)

    steps: dict[str, Callable[[], object]] = {
        ".item()": item,
        "cudaMalloc": allocate,
        "2,000 kernels": many,
    }
    for name, step in steps.items():
        hold, begin = Hold(), time.monotonic()
        held: list[float] = []
        free: list[float] = []
        for _ in range(samples):
            gpu_ms, host_ms, was_held = stream.sample(step, hold)
            (held if was_held else free).append(gpu_ms)
            if was_held:
                hold.expect(host_ms)
            else:
                hold.lengthen()
        seconds = time.monotonic() - begin
        shown = f"held {min(held):.3f} to {max(held):.3f} ms" if held else "never held"
        shown += f", not held {min(free):.3f} to {max(free):.3f} ms" if free else ""
        print(
            f"{name}: {len(held)} of {samples} held; {shown}; {seconds:.1f} s in all", flush=True
        )
    print("wanted: no hang; .item() is never held; held times of one step agree with each other")


if __name__ == "__main__":
    typer.run(main)
