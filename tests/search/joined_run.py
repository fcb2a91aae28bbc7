"""A process of several on one study: `python -m tests.search.joined_run URL LOG TRIALS LEASE_S`.

It measures on a fake bench, appends what it told to LOG, and says when it has begun.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import studies.claim
import studies.storage
from objectives.evaluation import Evaluation
from studies.study import open_storage
from tests.fake_bench import FakeBench
from tests.studies.test_session import session


def main() -> None:
    url, log, trials, lease_s = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    studies.claim.WAIT_S = float(lease_s)
    studies.storage.LEASE_S, studies.storage.HEARTBEAT_S = lease_s, 1
    of = session(open_storage(url), FakeBench(pause_s=0.005), sampler="random")
    of.joined = True
    print("begun", flush=True)
    list(of.measure_defaults())
    for found in of.trials(of.posts[0], trials, lambda: True):
        line = found.configuration.key if isinstance(found, Evaluation) else "lost"
        with log.open("a") as file:
            file.write(f"{os.getpid()} {line}\n")


if __name__ == "__main__":
    main()
