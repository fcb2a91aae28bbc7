"""A process of several on one study; it measures on a fake bench, and appends what it told."""

from __future__ import annotations

import os
from multiprocessing.synchronize import Barrier
from pathlib import Path

import studies.storage.database
import studies.storage.lock
from studies.study.study import open_storage
from tests.fake_bench import FakeBench
from tests.studies.session.test_session import session
from variants.axes import Choice

# More than 2,000 configurations of few workloads: each has a default to measure first.
SPACE: dict[str, tuple[Choice, ...]] = {
    "batch": (1, 4),
    "seq_len": (512,),
    "score_mod": ("none",),
    "quantization": ("none", "int8_weight_only", "fp8_weight_only"),
    "kv_dtype": ("same", "int8", "fp8"),
    "execution": ("eager", "compiled", "cuda_graph"),
}
LOST = "lost"


def measure(url: str, log: Path, trials: int, grace_s: int, begun: Barrier) -> None:
    """Join the study, wait for the others to join, and measure until all trials are told."""
    studies.storage.lock.WAIT_S = float(grace_s)
    studies.storage.database.GRACE_PERIOD_S, studies.storage.database.HEARTBEAT_S = grace_s, 1
    try:
        of = session(open_storage(url), FakeBench(pause_s=0.005), axes=SPACE, sampler="random")
    except BaseException:
        begun.abort()  # nobody need wait for it
        raise
    of.measurer.joined = True
    begun.wait(600)
    list(of.baselines.measure_missing())
    for found in of.trials(of.workers[0], trials, lambda: True):
        line = LOST if isinstance(found, str) else found.evaluation.configuration.key
        with log.open("a") as file:
            file.write(f"{os.getpid()} {line}\n")
