from __future__ import annotations

import importlib.util
import os
import secrets
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import sqlalchemy
from optuna.storages import BaseStorage

from search.options.shared_options import STORAGE_VARIABLE
from studies.study.study import open_storage
from tests.postgres import PostgresMissingError, Server, running

os.environ.pop(STORAGE_VARIABLE, None)  # a developer's study is no place for tests
# How long an example takes says nothing on a busy machine.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--everything",
        action="store_true",
        help="also the combinations that compile for seconds each on a CPU (an hour of them)",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device, and torch sees none")
        for item in marked:
            item.add_marker(skip)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many combinations were tried, and how many are not what is declared of them."""
    counts: dict[str, Counter[str]] = {}
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.getreports(outcome):
            for name, value in getattr(report, "user_properties", ()):
                if name == "declared" and (report.when == "call" or report.skipped):
                    counts.setdefault(str(value), Counter())[outcome] += 1
    if not counts:
        return
    from tests.combinations import coverage_lines

    terminalreporter.section("combinations")
    for line in coverage_lines({kind.split()[0] for kind in counts}):
        terminalreporter.write_line(line)
    for declared, by_outcome in sorted(counts.items()):
        terminalreporter.write_line(
            f"declared {declared}: {by_outcome.total()} tried, {by_outcome['failed']} disagree"
            + (f", {by_outcome['skipped']} skipped here" if by_outcome["skipped"] else "")
        )


@pytest.fixture
def storage_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def storage(storage_url: str) -> Iterator[BaseStorage]:
    opened = open_storage(storage_url)
    yield opened
    opened.remove_session()
    opened._backend.engine.dispose()  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("needs psycopg: pip install '.[postgres]'")
    try:
        with running() as server:
            yield server
    except PostgresMissingError as error:
        pytest.skip(str(error))


@pytest.fixture
def postgres_url(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty database, without a password: that is in PGPASSWORD.

    Its connections are closed at the end; a command leaves them to the end of its process.
    """
    import psycopg
    from psycopg import sql

    monkeypatch.setenv("PGPASSWORD", postgres.password)
    name = f"test_{secrets.token_hex(8)}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    opened: list[psycopg.Connection] = []

    def keep(connection: psycopg.Connection, record: object) -> None:
        opened.append(connection)

    sqlalchemy.event.listen(sqlalchemy.Pool, "connect", keep)
    yield postgres.url.removesuffix("postgres") + name
    sqlalchemy.event.remove(sqlalchemy.Pool, "connect", keep)
    for connection in opened:
        connection.close()
