"""The blocks of README.md, run as they stand, and what its tables say.

What is not done as it stands is in `SUBSTITUTED`, `GIVEN` and `run_command`:

- `pip` and `pytest` are not run; that what `pip` is given exists is checked.
- The first search, of the section "In a minute", is measured here, with fewer trials.
- Every other `run` would take minutes on a GPU: a dry run on a made-up H100.
- `profile` and `support` ask that bench, too. The dashboard is prepared and not served.
- `verify` may find that a claim no longer holds, as on a busy machine it does.
- All other commands, and the Python, work on what the first search measured.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import Path

import pytest
import typer

from search import cli, show_commands
from search.command_reference import EXIT_STATUSES
from tests.search.fake_cli import fake_devices
from tests.search.test_cli import search

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks" / "README.md"])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

SEARCH = ["python", "-m", "search"]
MEASURED_SECTION = "In a minute"
SUBSTITUTED = {
    # Three configurations instead of twelve, none of which is called a stall on a busy machine.
    "--cache concat,static --trials 20": "--cache concat,static --trials 3 --max-stall-ms 1e6",
    "--trial 7": "--trial 2",  # there are three
}
# What a reader has: a model, here one with the heads of the first search, and its inputs.
GIVEN = """
import torch
import transformers
config = transformers.LlamaConfig(
    vocab_size=64, hidden_size=256, intermediate_size=64, num_hidden_layers=1,
    num_attention_heads=4, num_key_value_heads=4, head_dim=64, eos_token_id=None, pad_token_id=0,
)
path = "model"
transformers.LlamaForCausalLM(config).save_pretrained(path)
inputs = {"input_ids": torch.ones(1, 8, dtype=torch.long), "max_new_tokens": 4}
"""


@dataclass(frozen=True, slots=True)
class Block:
    """What stands between two fences."""

    section: str
    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        """Its lines, with single blanks; those that go on are joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [" ".join(line.split()) for line in lines if line.strip()]


def blocks(page: str) -> Iterator[Block]:
    section = ""
    for heading, language, text in re.findall(
        r"^## ([^\n]+)$|^```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL
    ):
        section = heading or section
        if language:
            yield Block(section, language, text)


def commands_of(line: str) -> Iterator[list[str]]:
    """Yield the words of each command of a line."""
    words: list[str] = []
    for word in [*shlex.split(line, comments=True), "&&"]:
        if word != "&&":
            words.append(word)
        else:
            yield words
            words = []


def searches(page: str) -> Iterator[list[str]]:
    """Yield what follows `python -m search` in the blocks of a page."""
    for block in blocks(page):
        for line in block.lines if block.language == "bash" else ():
            for words in commands_of(line):
                if words[:3] == SEARCH:
                    yield list(takewhile(lambda word: not word.startswith(">"), words[3:]))


def check_install(words: list[str]) -> None:
    """Check that the files and extras of a `pip install` exist."""
    for before, word in pairwise(words):
        extras = re.fullmatch(r"\.\[(.+)\]", word)
        if before == "-c":
            assert (ROOT / word).is_file()
        elif extras is not None:
            assert set(extras[1].split(",")) <= PROJECT["optional-dependencies"].keys()


def run_command(words: list[str], section: str, patch: pytest.MonkeyPatch) -> None:
    if words[:2] == ["pip", "install"]:
        check_install(words)
    elif words[:3] != SEARCH:
        assert words[:3] == ["python", "-m", "pytest"], words
    elif words[3] == "verify" or (words[3], section) == ("run", MEASURED_SECTION):
        done = search(*words[3:], cwd=Path.cwd())
        assert done.returncode in ((0, 1) if words[3] == "verify" else (0,)), done
        assert done.stderr == ""
    else:
        is_dry = words[3] != "run" or "--dry-run" in words
        patch.setattr(sys, "argv", ["search", *words[3:], *([] if is_dry else ["--dry-run"])])
        assert cli.main() == 0, words


def run_python(text: str, folder: Path) -> str:
    (folder / "blocks.py").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "blocks.py"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(600)  # some 40 s of two cores' work, which a busy machine may take for longer
def test_blocks_of_the_readme_run_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(show_commands, "serve", lambda *args: None)
    python = GIVEN
    substituted = set()
    with fake_devices() as patch:
        for block in blocks(README):
            if block.language == "toml":
                name = block.text.partition("\n")[0].removeprefix("# ")
                (tmp_path / name).write_text(block.text, encoding="utf-8")
            elif block.language == "python":
                python += block.text
            for line in block.lines if block.language == "bash" else ():
                for old, new in SUBSTITUTED.items():
                    substituted |= {old} if old in line else set()
                    line = line.replace(old, new)
                for words in commands_of(line):
                    run_command(words, block.section, patch)
    assert substituted == SUBSTITUTED.keys()  # none is left over of an earlier README
    printed = run_python(python, tmp_path)
    assert "execution" in printed  # the table of the researcher's block
    written = {path.name for path in tmp_path.iterdir()}
    assert {"goldilocks.db", "report.html", "best.json", "trials.csv", "profile"} <= written


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_of_a_page_can_be_typed(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    for name, *words in searches(text):
        while "--plugin" in words:  # it would stay in this process
            at = words.index("--plugin")
            assert (ROOT / words[at + 1]).is_file()
            del words[at : at + 2]
        commands[name].make_context(name, words)
    for inline in re.findall(r"(?<!`)`python\s-m\ssearch\s([^`]+)`", text):
        name, *words = inline.split()
        if name == "COMMAND":
            continue
        context = typer.Context(commands[name], info_name=name)
        known = {
            option
            for parameter in commands[name].get_params(context)
            for option in (*parameter.opts, *parameter.secondary_opts)
        }
        assert {word for word in words if word.startswith("--")} <= known, inline


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith(("http:", "https:")):
            continue
        file, _, anchor = link.partition("#")
        target = page if not file else page.parent / file
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def rows(section: str) -> list[str]:
    """The first cells of the table of a section, without its heading."""
    text = README.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (.+?) \|", text, re.MULTILINE)
    return [cell.strip("`") for cell in cells[1:]]


def test_the_tables_of_commands_and_statuses_are_complete() -> None:
    assert rows("Commands") == list(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]
    assert rows("Exit statuses") == [str(status) for status in EXIT_STATUSES]
    for meaning in EXIT_STATUSES.values():
        assert f"| {meaning} |" in README
