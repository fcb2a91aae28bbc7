"""`python -m tests.search.fake_cli ARGUMENTS`: the command line, on a fake bench."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from search import cli, profile_command, show_commands
from search import run_command as run
from tests.fake_bench import FakeBench


class CommandBench(FakeBench):
    """The fake bench as `run` makes and asks it."""

    def __init__(
        self, limits: object, *, seed: int, device: object, placement: object, precompile: object
    ) -> None:
        super().__init__()
        self.process = SimpleNamespace(start_seconds=[0.0])


@contextmanager
def fake_devices() -> Iterator[pytest.MonkeyPatch]:
    """Give every command that would measure a bench that makes its numbers up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "DeviceBench", CommandBench)
        patch.setattr(run, "foreign_gpu_processes", lambda indices: [])
        for command in (profile_command, show_commands):
            patch.setattr(command, "DeviceBench", lambda *args, **kwargs: FakeBench())
        yield patch


def main() -> int:
    with fake_devices():
        return cli.main()


if __name__ == "__main__":
    sys.exit(main())
