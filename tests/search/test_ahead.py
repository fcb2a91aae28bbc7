"""`run --compile-ahead`: the same trials, and a line about what it did."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from studies.study.study import load_study, open_storage
from studies.study.trials import finished_trials
from tests.objectives.precompile.toy_compile_handler import TOY
from tests.search.test_faults import environment, left_over

OPTIONS = [
    *("--device", "cpu", "--backend", "flex,math", "--precision", "fp32,bf16", "--trials", "20"),
    *("--seq-len", "64,128", "--no-finalists", "--study", "s"),
]


def run(folder: Path, *options: str) -> tuple[list[str], str]:
    """Return what was tried, in order, and what was printed. Nothing stays behind."""
    folder.mkdir()
    toy = json.dumps({"do": "compiles", "folder": str(folder)})
    done = subprocess.run(
        [sys.executable, "-m", "tests.search.ahead_run", "run", *OPTIONS, *options],
        cwd=folder,
        env=environment(str(folder)) | {TOY: toy, "COLUMNS": "160"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert left_over(str(folder)) == []
    study = load_study(open_storage(f"sqlite:///{folder / 'goldilocks.db'}"), "s")
    return [one.evaluation.configuration.key for one in finished_trials(study)], done.stdout


def test_the_same_is_tried_with_and_without(tmp_path: Path) -> None:
    plain, printed = run(tmp_path / "plain")
    assert "compiled ahead" not in printed
    assert not (tmp_path / "plain" / "jobs").exists()
    ahead, printed = run(tmp_path / "ahead", "--compile-ahead", "1")
    assert ahead == plain
    found = re.search(r"compiled ahead: (\d+) .*met by trials, in .*: (\d+)", printed)
    assert found is not None
    jobs = (tmp_path / "ahead" / "jobs").read_text().splitlines()
    assert 0 < int(found[2]) <= int(found[1]) <= len(jobs)
    assert len(set(jobs)) == len(jobs)


def test_no_more_helpers_than_cores_and_memory_allow(tmp_path: Path) -> None:
    _, printed = run(tmp_path / "run", "--compile-ahead", "1000")
    assert re.search(r"compiling ahead in \d+ processes for each device, not 1000", printed)
