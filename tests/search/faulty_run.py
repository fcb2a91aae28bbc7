"""`python -m tests.search.faulty_run ARGUMENTS`: the command line, on a faulty job handler.

The wall clock of this process goes backwards each time it is looked at.
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
import time

from objectives.trial.bench import DeviceBench
from search import cli
from search import run_command as run
from tests.objectives.trial.faulty_handler import ENVIRONMENT


def main() -> None:
    backwards = itertools.count()
    began = time.time()
    time.time = lambda: began - 60 * next(backwards)
    assert ENVIRONMENT in os.environ
    run.DeviceBench = functools.partial(  # type: ignore[misc,assignment]
        DeviceBench, target="tests.objectives.trial.faulty_handler:start_handler"
    )
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
