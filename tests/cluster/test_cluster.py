"""The scripts for schedulers, as far as they can be checked without one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml

from search.options.shared_options import STORAGE_VARIABLE
from studies.storage.url import database_url, has_password
from tests.search import fake_cli

ROOT = Path(__file__).parents[2]
SCRIPT, MANIFEST = ROOT / "docs/cluster/slurm.sh", ROOT / "docs/cluster/job.yaml"
# Of sbatch(1), Slurm 22.05, those that a batch script may want to have: name, and what follows.
COUNT, TIME, WORD = r"\d+", r"(\d+-)?\d+(:\d\d){1,2}", r"[\w.%/-]+"
SBATCH = {
    "account": WORD,
    "array": r"[\d,%:-]+",
    "chdir": WORD,
    "constraint": WORD,
    "cpus-per-gpu": COUNT,
    "cpus-per-task": COUNT,
    "error": WORD,
    "exclusive": None,
    "gpus-per-node": rf"(\w+:)?{COUNT}",
    "gpus-per-task": rf"(\w+:)?{COUNT}",
    "job-name": WORD,
    "mem": r"\d+[KMGT]?",
    "nodes": r"\d+(-\d+)?",
    "ntasks": COUNT,
    "ntasks-per-node": COUNT,
    "open-mode": "append|truncate",
    "output": WORD,
    "partition": WORD,
    "qos": WORD,
    "requeue": None,
    "signal": r"(B:|R:)?(TERM|INT|USR1|USR2)@\d+",
    "time": TIME,
}


def manifest() -> dict[str, object]:
    (found,) = yaml.safe_load_all(MANIFEST.read_text())
    assert isinstance(found, dict)
    return found


def schema() -> dict[str, object]:
    found = json.loads((Path(__file__).parent / "job.schema.json").read_text())
    assert isinstance(found, dict)
    return found


def container() -> dict[str, object]:
    found: object = manifest()
    for step in ("spec", "template", "spec", "containers"):
        assert isinstance(found, dict)
        found = found[step]
    assert isinstance(found, list)
    (one,) = found
    assert isinstance(one, dict)
    return one


@pytest.fixture
def accepts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[list[str]], None]:
    """Takes a command line as `run` takes it, up to where it would measure."""

    def accept(words: list[str]) -> None:
        assert words[:4] == ["python", "-m", "search", "run"]
        monkeypatch.setenv(STORAGE_VARIABLE, f"sqlite:///{tmp_path / 's.db'}")
        monkeypatch.setattr(sys, "argv", [*words[2:], "--device", "cpu", "--dry-run"])
        status = fake_cli.main()
        said = capsys.readouterr()
        assert status == 0, said.err
        assert "search space" in said.out

    return accept


def run_script(folder: Path, *arguments: str, status: int = 0) -> list[list[str]]:
    """Run the batch script where `srun` only notes what it is given; returns its calls."""
    (folder / "goldilocks/.venv/bin").mkdir(parents=True)
    (folder / "goldilocks/.venv/bin/activate").touch()
    srun = folder / "srun"
    note = r"""{ printf '%s\0' "$@" "$GOLDILOCKS_STORAGE"; echo; } >>"$HOME/calls" """
    srun.write_text(f"#!/bin/sh\n{note}\nexit {status}\n")
    srun.chmod(0o755)
    done = subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        env={
            "PATH": f"{folder}:{os.environ['PATH']}",
            "HOME": str(folder),
            "SLURM_CPUS_PER_TASK": "64",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return [line.split("\0")[:-1] for line in (folder / "calls").read_text().splitlines()]


def test_the_script_s_syntax_and_directives() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(SCRIPT)], check=True)
    lines = SCRIPT.read_text().splitlines()
    directives = [line for line in lines if line.startswith("#SBATCH")]
    first_command = next(n for n, line in enumerate(lines) if line and not line.startswith("#"))
    assert max(lines.index(line) for line in directives) < first_command  # later ones are ignored
    seen = {}
    for line in directives:
        found = re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(\S+))?", line)
        assert found, line
        name, value = found.groups()
        assert name in SBATCH, line
        assert name not in seen, line
        expected = SBATCH[name]
        assert (value is None) if expected is None else re.fullmatch(expected, value or ""), line
        seen[name] = value
    # Time for a trial in flight between the signal and the end.
    assert int(seen["signal"].partition("@")[2]) > 180


def test_the_script_s_commands(tmp_path: Path, accepts: Callable[[list[str]], None]) -> None:
    calls = run_script(tmp_path, "my study", "--trials", "10", "--batch", "1")
    assert len(calls) == 2
    for call in calls:
        words, url = call[call.index("python") : -1], call[-1]
        assert words[4:6] == ["--study", "my study"]
        accepts(words)
        assert database_url(url).get_backend_name() == "postgresql"
        assert not has_password(url)
    assert ["--no-finalists" in call for call in calls] == [True, False]


def test_an_interrupted_job_ends_as_interrupted(tmp_path: Path) -> None:
    assert len(run_script(tmp_path, "s", status=130)) == 1


def test_the_manifest_is_a_job() -> None:
    job, rules = manifest(), schema()
    jsonschema.Draft202012Validator.check_schema(rules)
    jsonschema.validate(job, rules)
    wrong = json.loads(json.dumps(job))
    wrong["spec"]["template"]["spec"]["containers"][0]["resource"] = {}
    with pytest.raises(jsonschema.ValidationError, match="'resource' was unexpected"):
        jsonschema.validate(wrong, rules)


def test_the_manifest_s_command(accepts: Callable[[list[str]], None]) -> None:
    one = container()
    words = one["command"]
    assert isinstance(words, list)
    accepts(words)
    variables = {each["name"]: each for each in one["env"]}  # type: ignore[attr-defined]
    url = variables[STORAGE_VARIABLE]["value"]
    assert database_url(url).get_backend_name() == "postgresql"
    assert not has_password(url)
    assert "secretKeyRef" in variables["PGPASSWORD"]["valueFrom"]
    text = MANIFEST.read_text()
    secret = variables["PGPASSWORD"]["valueFrom"]["secretKeyRef"]
    assert f"secret generic {secret['name']} --from-literal={secret['key']}=" in text


def test_what_must_be_changed_is_marked() -> None:
    for path in (SCRIPT, MANIFEST):
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines):
            if "example.org" in line or "my-study" in line or "$HOME" in line:
                # On the line, or in the comment above it.
                assert "CHANGE" in "".join(lines[max(0, number - 2) : number + 1]), line
