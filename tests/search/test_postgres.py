"""All commands on a study in PostgreSQL, and no password anywhere."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
import sqlalchemy
from optuna_dashboard import wsgi

from search import cli
from search.options.shared_options import STORAGE_VARIABLE
from studies.storage.artifacts import artifact_folder
from studies.storage.database import HEARTBEAT_S
from studies.storage.optuna_internals import engine_of, study_id_of
from studies.storage.url import DatabaseUrlError, database_url, shown, without_passwords
from studies.study.attributes import StudyError
from studies.study.study import load_study, open_storage
from studies.study.trials import finished_trials
from tests.postgres import Server
from tests.search import fake_cli

ROOT = Path(__file__).parents[2]
STUDY = ("--study", "s")
SPACE = ("--seq-len", "512", "--batch", "1", "--score-mod", "none", "--device", "cpu")


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., str]:
    """Run a command here; returns all that it says."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str, status: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["search", *words])
        capsys.readouterr()
        ended = (fake_cli if words[0] == "run" else cli).main()
        said = capsys.readouterr()
        assert ended == status, said.err
        return said.out + said.err

    return run


def all_that_is_stored(url: str) -> str:
    engine = engine_of(open_storage(url))
    assert engine is not None
    lines = []
    with engine.connect() as connection:
        for table in sqlalchemy.inspect(engine).get_table_names():
            rows = connection.execute(sqlalchemy.text(f"SELECT row_to_json(t) FROM {table} t"))
            lines += [json.dumps(row[0]) for row in rows]
    return "\n".join(lines)


def page(storage: optuna.storages.BaseStorage, path: str) -> bytes:
    environ: dict[str, object] = {"PATH_INFO": path, "wsgi.input": io.BytesIO()}
    setup_testing_defaults(environ)
    statuses: list[str] = []
    body = b"".join(wsgi(storage)(environ, lambda status, *_: statuses.append(status)))
    assert statuses[0].startswith("200"), (statuses, body)
    return body


def test_a_whole_study(
    postgres: Server, postgres_url: str, command: Callable[..., str], tmp_path: Path
) -> None:
    # As a user of one host starts it, with the password in libpq's own variable.
    began = subprocess.run(
        [
            *(sys.executable, "-m", "tests.search.fake_cli", "run", "--storage", postgres_url),
            *(*STUDY, *SPACE, "--trials", "8", "--sampler", "random"),
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert began.returncode == 0, began.stderr
    assert f"python -m search report --study s --storage {postgres_url}" in began.stdout
    where = (*STUDY, "--storage", postgres_url)
    assert "14 trials" in command("run", *where, *SPACE, "--trials", "14")
    study = load_study(open_storage(postgres_url), "s")
    keys = [trial.evaluation.configuration.key for trial in finished_trials(study)]
    assert len(keys) == len(set(keys)) == 14
    assert "study s: NVIDIA H100" in command("show", *where)
    assert len(command("table", *where).splitlines()) == 16  # a heading, and the default
    assert json.loads(command("export", *where))["study"]["name"] == "s"
    assert "wrote r.html" in command("report", *where, "--output", "r.html")
    goes_on = f"python -m search run --study s --storage {postgres_url} --trials "
    assert goes_on in command("sensitivity", *where)
    (attached,) = artifact_folder(postgres_url).iterdir()
    assert attached.read_bytes() == (tmp_path / "r.html").read_bytes()
    storage = open_storage(postgres_url)
    told_by_page = page(storage, f"/api/studies/{study_id_of(study)}")
    assert len(json.loads(told_by_page)["trials"]) == 14


def test_no_password_is_seen(
    postgres: Server,
    postgres_url: str,
    command: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    secret = postgres.with_password(postgres_url)
    monkeypatch.delenv("PGPASSWORD")
    monkeypatch.setenv(STORAGE_VARIABLE, secret)
    said = command("run", *STUDY, *SPACE, "--trials", "6", "--sampler", "random")
    assert "study s in postgresql://goldilocks:***@127.0.0.1:" in said
    assert "python -m search export --study s --output best.json" in said
    for words in (
        ("show",),
        ("table",),
        ("export",),
        ("sensitivity",),
        ("report", "--output", "r.html"),
    ):
        said += command(*words, *STUDY)
    said += (tmp_path / "r.html").read_text()
    storage = open_storage(secret)
    study = load_study(storage, "s")
    said += page(storage, f"/api/studies/{study_id_of(study)}").decode()
    said += page(storage, "/api/meta").decode()
    said += all_that_is_stored(secret)
    # What cannot be opened, with the same password; and what must not be written at all.
    for url in (secret.replace("127.0.0.1", "127.0.0.2"), secret + "_absent", secret + "?x=1"):
        monkeypatch.setenv(STORAGE_VARIABLE, url)
        said += command("show", status=2)
    for url in (secret, f"{postgres_url}?password={quote(postgres.password, safe='')}"):
        refused = command("show", "--storage", url, status=2)
        assert refused.startswith("error: --storage must hold no password: give it in PGPASSWORD")
        assert refused.count("\n") == 1
        said += refused
    for written in (
        postgres.password,
        quote(postgres.password),
        quote(postgres.password, safe=""),
    ):
        assert written not in said
    assert postgres.password[-16:] not in said


def test_storages_of_postgresql_take_heartbeats(postgres_url: str) -> None:
    storage = open_storage(postgres_url.replace("postgresql:", "postgres:"))
    assert isinstance(storage, optuna.storages._CachedStorage)
    assert storage.get_heartbeat_interval() == HEARTBEAT_S
    engine = engine_of(storage)
    assert engine is not None
    assert engine.driver == "psycopg"


def test_psycopg_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(
        StudyError, match=r"//u@h/d: it needs psycopg: pip install '.\[postgres\]'$"
    ):
        open_storage("postgresql://u@h/d")


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("postgresql://u:hunter2@h/d", "postgresql://u:***@h/d"),
        (
            "postgresql://u:hun%2Fter2@h:5/d?sslmode=require",
            "postgresql://u:***@h:5/d?sslmode=require",
        ),
        ("postgresql://u@h/d?password=hunter2&x=y", "postgresql://u@h/d?password=***&x=***"),
        ("postgresql://u:p@hunter2@h/d", "postgresql://***"),
        ("postgresql://u:p@hunter2/x@h/d", "postgresql://***"),
        ("postgresql://u:p:4@h:hunter2/d", "postgresql://***"),
        ("host=h password=hunter2", "***"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("study.db", "study.db"),
    ],
)
def test_addresses_are_shown_without_passwords(url: str, seen: str) -> None:
    assert shown(url) == seen


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u@h/d",
        "redis://h",
        "postgresql+psycopg2://u@h/d",
        "sqlite+pysqlcipher://:hunter2@/x.db",
        "study.log",
        "",
    ],
)
def test_other_engines_are_refused(url: str) -> None:
    with pytest.raises(DatabaseUrlError, match="storage must be sqlite") as raised:
        database_url(url)
    assert "hunter2" not in str(raised.value)


def test_passwords_are_taken_out_of_errors() -> None:
    said = "no: postgresql://u:hun:te@r2@h/d, password='it is hunter2' port=1, password=hunter2"
    cleaned = "no: postgresql://u:***@h/d, password=*** port=1, password=***"
    assert without_passwords(said) == cleaned
