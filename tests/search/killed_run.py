"""Runs that can be killed, each in a process forked from this one: importing takes longest.

`python -m tests.search.killed_run URL` reads lines of its standard input, starts a run of so many
trials for each, prints the run's process id, and its exit status when it has ended.
Each measurement appends its key to `measured.txt`, so that a test can see what was measured,
whatever was told.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from objectives.schema.evaluation import Evaluation
from objectives.schema.limits import Limits
from objectives.trial.bench import DeviceBench
from studies.session.session import Session
from studies.space.defaults import DEFAULT_AXES
from studies.space.space import fill_defaults, survey
from studies.study.opening import open_study
from studies.study.plan import Plan
from studies.study.study import open_storage
from variants.configuration import Configuration


class RecordingBench(DeviceBench):
    def evaluate(self, configuration: Configuration) -> Evaluation:
        evaluation = super().evaluate(configuration)
        with Path("measured.txt").open("a") as file:
            file.write(configuration.key + "\n")
        return evaluation


def run(url: str, trials: int) -> None:
    limits = Limits(deadline_s=0.5)
    target = "tests.objectives.trial.faulty_handler:start_handler"
    bench = RecordingBench(limits, seed=0, device="cpu", target=target)
    space = fill_defaults({"seq_len": (64, 128, 256, 512)}, DEFAULT_AXES["cpu"])
    plan = Plan(space=space, limits=limits, sampler="random", seed=0)
    before = time.monotonic()
    study = open_study(open_storage(url), "s", plan, bench.environment())
    session = Session(study, plan, survey(space, bench.device()), bench)
    with Path("resumed.txt").open("a") as file:
        file.write(f"{session.tried()} {time.monotonic() - before:.3f}\n")
    list(session.baselines.measure_missing())
    while session.tried() < trials:
        session.trial()
    bench.close()


def main() -> None:
    url = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        open_storage(f"sqlite:///{folder}/study.db")  # imports what opening one does
    for trials in sys.stdin:
        pid = os.fork()
        if pid == 0:
            run(url, int(trials))
            os._exit(0)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
