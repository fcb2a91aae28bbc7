"""`python -m tests.search.ahead_run ARGUMENTS`: the command line, on toys."""

from __future__ import annotations

import functools
import sys

from objectives.precompile import precompile_pool
from objectives.trial.bench import DeviceBench
from search import cli
from search import run_command as run


def main() -> None:
    run.DeviceBench = functools.partial(  # type: ignore[misc,assignment]
        DeviceBench, target="tests.objectives.trial.faulty_handler:start_handler"
    )
    precompile_pool.PrecompilePool = functools.partial(  # type: ignore[misc,assignment]
        precompile_pool.PrecompilePool,
        target="tests.objectives.precompile.toy_compile_handler:start_handler",
    )
    precompile_pool.most_processes = lambda placement, placements: 1
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
