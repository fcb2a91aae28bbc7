"""`python -m tests.search.ahead_run ARGUMENTS`: the command line, on toys."""

from __future__ import annotations

import functools
import sys

from objectives.precompile import precompile_pool as ahead
from objectives.trial.bench import DeviceBench
from search import cli
from search import run_command as run


def main() -> None:
    run.DeviceBench = functools.partial(  # type: ignore[misc,assignment]
        DeviceBench, target="tests.objectives.trial.faulty_station:attach"
    )
    ahead.Ahead = functools.partial(  # type: ignore[misc,assignment]
        ahead.Ahead, target="tests.objectives.precompile.toy_helper:attach"
    )
    ahead.most_helpers = lambda lane, lanes: 1
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
