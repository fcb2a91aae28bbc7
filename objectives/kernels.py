"""Which operators and device kernels a step really runs, by the profiler."""

from __future__ import annotations

import re

import torch

from variants.run import Run

# Attention and matrix products; copies and element-wise kernels say nothing about the choice.
_TELLING = re.compile(
    r"scaled_dot_product|softmax|flash|fmha|sdpa|cutlass|gemm|triton_|Torch-Compiled Region|::bmm$"
)
_MAX_NAME = 120  # characters; C++ template names run to thousands


def kernels_of_step(run: Run) -> tuple[str, ...]:
    """Profile the first step and return the telling names, each once, in order of appearance."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU]
    if run.layer.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    run.restart()
    with profile(activities=activities) as profiler:
        run.step(0)
        if run.layer.device.type == "cuda":
            torch.cuda.synchronize()
    assert profiler.profiler is not None
    results = profiler.profiler.kineto_results
    assert results is not None
    names = dict.fromkeys(event.name() for event in results.events())
    return tuple(name[:_MAX_NAME] for name in names if _TELLING.search(name))
