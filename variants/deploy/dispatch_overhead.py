"""Measures what dispatch costs a call: `python -m variants.deploy.dispatch_overhead best.json`.

Everything that a call does is timed but for the backend itself, in whose place stands a function
that returns the query: beside the microseconds to milliseconds of attention, a difference of two
timings would show the noise of the second.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch

from variants.deploy.deployment import Deployment
from variants.deploy.dispatched_attention import DispatchWarning
from variants.deploy.layer_cache import CachedKV
from variants.deploy.loading import load

CALLS, ROUNDS = 200, 200


def microseconds(call: Callable[[], object]) -> tuple[float, float]:
    """Return the 5 % quantile and the median, over rounds, of the mean time of a call.

    Host noise is one-sided: something else ran. The quantile is what the call takes.
    """
    rounds = []
    for _ in range(ROUNDS):
        before = time.perf_counter_ns()
        for _ in range(CALLS):
            call()
        rounds.append((time.perf_counter_ns() - before) / CALLS / 1e3)
    return statistics.quantiles(rounds, n=20)[0], statistics.median(rounds)


def dispatch_us(loaded: Deployment) -> tuple[float, float, float]:
    """Return the microseconds of the first decision for a workload, and of later calls.

    Of later ones, the 5 % quantile and the median.

    The attention of `loaded` computes nothing afterwards.
    """
    workload = loaded.configurations[0].workload
    kind = torch.device(loaded.device.kind)

    def some(heads: int, tokens: int) -> torch.Tensor:
        shape = (workload.batch, heads, tokens, workload.head_dim)
        return torch.zeros(shape, dtype=loaded.dtype, device=kind)

    query = some(workload.q_heads, 1)
    key = some(workload.kv_heads, workload.seq_len)
    score_mod = workload.score_mod

    def call() -> object:
        return loaded.attention(query, key, key, score_mod=score_mod)

    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DispatchWarning)
        before = time.perf_counter_ns()
        way = loaded.attention.way(query, CachedKV.given(query, key, key), score_mod=score_mod)
        first = (time.perf_counter_ns() - before) / 1e3
        way.attend = lambda query, kv, mask: query
        return first, *microseconds(call)


def main() -> None:
    """Print the overhead of dispatch in a file's attention."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("path", help="a file written by `python -m search export`")
    first, later, median = dispatch_us(load(parser.parse_args().path))
    print(
        f"dispatch: {later:.2f} µs a call (median {median:.2f}), {first:.0f} µs the first; "
        f"torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
