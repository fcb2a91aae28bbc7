"""A run on a fake bench, as a process that can be killed: `python -m tests.search.fake_run URL N`.

Each measurement appends its key to URL's neighbour `measured.txt`, so that a test can see what
was measured, whatever was told.
"""

from __future__ import annotations

import sys
from pathlib import Path

from objectives.schema.evaluation import Evaluation
from studies.study.plan import plan_of
from studies.study.study import open_storage
from tests.fake_bench import FakeBench
from tests.studies.session.test_session import session
from variants.configuration import Configuration


class RecordingBench(FakeBench):
    def __init__(self, log: Path, pause_s: float) -> None:
        super().__init__(pause_s=pause_s)
        self._log = log

    def evaluate(self, configuration: Configuration) -> Evaluation:
        evaluation = super().evaluate(configuration)
        with self._log.open("a") as file:
            file.write(configuration.key + "\n")
        return evaluation


def main() -> None:
    url, trials, pause_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    log = Path(url.removeprefix("sqlite:///")).parent / "measured.txt"
    of = session(open_storage(url), RecordingBench(log, pause_s))
    assert plan_of(of.study) == of.plan
    list(of.baselines.measure_missing())
    print("started", flush=True)
    while of.tried() < trials:
        of.trial()


if __name__ == "__main__":
    main()
