"""Which operators and device kernels a step really runs, by the profiler."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from variants.backends import BACKENDS
from variants.layer.run import Run

if TYPE_CHECKING:
    from torch.profiler import ProfilerActivity

# Attention and matrix products; copies and element-wise kernels say nothing about the choice.
_TELLING = re.compile(
    r"scaled_dot_product|softmax|flash|fa3|fmha|sdpa|cutlass|gemm|mma|triton_"
    r"|Torch-Compiled Region|::bmm$|_mm$|linear_dynamic|^graph_\d+_"
)
_MAX_NAME = 120  # characters; C++ template names run to thousands


def kernels_of_step(run: Run) -> tuple[str, ...]:
    """Profile the first step and return the telling names, each once, in order of appearance.

    A captured step runs no operators when it is replayed: those of its capture come first.
    """
    from torch.profiler import ProfilerActivity

    activities = [ProfilerActivity.CPU]
    names: list[str] = []
    if run.layer.execution.captures:
        run.layer.release_graph()
        names += _profiled(run, activities)
    if run.layer.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    names += _profiled(run, activities)
    telling = [_TELLING, *_proofs_of_plugins(run.layer.device.type)]
    return tuple(
        name[:_MAX_NAME]
        for name in dict.fromkeys(names)
        if any(pattern.search(name) for pattern in telling)
    )


def _proofs_of_plugins(kind: str) -> list[re.Pattern[str]]:
    proofs = (BACKENDS[name].proof for name in BACKENDS.added)
    return [re.compile(pattern) for proof in proofs for k, pattern in proof.items() if k == kind]


def _profiled(run: Run, activities: list[ProfilerActivity]) -> list[str]:
    from torch.profiler import profile

    run.restart()
    with profile(activities=activities) as profiler:
        run.step(0)
        if run.layer.device.type == "cuda":
            torch.cuda.synchronize()
    assert profiler.profiler is not None
    results = profiler.profiler.kineto_results
    assert results is not None
    return [event.name() for event in results.events()]
