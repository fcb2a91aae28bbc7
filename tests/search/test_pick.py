"""What `export` prints of one choice for all workloads, and files of several choices."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import variants
from objectives.schema.evaluation import Evaluation, Outcome
from search.cli import main
from studies.export.document import Export
from studies.results.results import read_results
from studies.study.study import open_storage
from tests.fake_bench import FakeBench, measurements
from tests.studies.session.test_session import run, session
from variants.configuration import Configuration

AXES = {
    "batch": (1, 8),
    "seq_len": (512, 2048),
    "score_mod": ("none",),
    "backend": ("flash",),
    "precision": ("bf16", "fp16"),
    "cache": ("static",),
    "execution": ("eager",),
}


class Divided(FakeBench):
    """At batch 1 bf16 takes half of the default's time, at batch 8 fp16; the other `other`."""

    def __init__(self, other: float) -> None:
        super().__init__()
        self._other = other

    def _answer(self, configuration: Configuration) -> Evaluation:
        variant, batch = configuration.variant, configuration.workload.batch
        best = variant.precision == ("bf16" if batch == 1 else "fp16")
        latency = 1.0 if variant.backend == "auto" else 0.5 if best else self._other
        return Evaluation(
            configuration=configuration,
            outcome=Outcome.MEASURED,
            measurements=measurements(latency, 100.0),
            seconds={"latency": 0.0},
        )


Exported = Callable[..., tuple[int, str, str]]


@pytest.fixture
def exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Exported:
    monkeypatch.chdir(tmp_path)

    def export(other: float, *options: str) -> tuple[int, str, str]:
        of = session(open_storage("sqlite:///goldilocks.db"), Divided(other), axes=AXES, name=None)
        run(of, of.survey.size)
        for result in read_results(of.study).workloads:
            of.retiming.measure(result)
        monkeypatch.setattr(sys, "argv", ["search", "export", *options])
        status = main()
        said = capsys.readouterr()
        return status, " ".join(said.out.split()), said.err

    return export


def test_one_choice_that_loses_somewhere_is_warned_of_and_two_are_offered(
    exported: Exported,
) -> None:
    status, said, _ = exported(1.6, "--output", "best.json", "--prefer", "latency")
    assert status == 0
    document = Export.model_validate_json(Path("best.json").read_bytes())
    chosen = document.of_single("lowest_latency")
    losing = [one for one in chosen if one is not None and one.speedup < 0.9]
    # Where the default has the same type and cache it takes the place; elsewhere that is said.
    assert said.count("loses to the default there") == len(losing)
    assert "one choice for all workloads: precision " in said
    assert re.search(r"worst (\d+) %", said) is not None
    assert "two choices would cut the worst regret" in said
    assert "(--choices 2 writes a file for each)" in said


def test_a_choice_that_is_good_everywhere_is_enough(exported: Exported) -> None:
    _, said, _ = exported(0.5, "--output", "best.json", "--prefer", "latency")
    assert "warning" not in said
    assert "two choices" not in said
    assert re.search(r"mean [01]\.\d %, worst [01]\.\d %", said) is not None


@pytest.mark.filterwarnings("ignore:.*was measured with torch")
def test_two_choices_are_two_files_that_load(exported: Exported) -> None:
    options = ("--output", "best.json", "--choices", "2", "--prefer", "latency")
    status, said, _ = exported(0.8, *options)
    assert status == 0
    assert not Path("best.json").exists()
    models = {}
    for number in (1, 2):
        path = f"best-{number}.json"
        assert f"wrote {path}" in said
        document = json.loads(Path(path).read_text())
        batches = {one["workload"]["batch"] for one in document["workloads"]}
        loaded = variants.load(path, device="cpu", other_device=True, prefer="latency")
        assert {of.workload.batch for of in loaded.configurations} == batches
        assert len(loaded.configurations) == 2
        (batch,) = batches
        models[batch] = loaded.model.precision
    assert models == {1: "bf16", 8: "fp16"}


@pytest.mark.parametrize(
    ("options", "got"),
    [(("--choices", "2"), "no --output"), (("--pick", "dispatch"), "--pick dispatch")],
)
def test_several_choices_need_a_file_and_single_choices(
    exported: Exported, options: tuple[str, ...], got: str
) -> None:
    more = () if "--choices" in options else ("--choices", "2", "--output", "x.json")
    status, _, errors = exported(0.8, *options, *more)
    assert status == 2
    assert errors.startswith("error: --choices 2 must come with --output FILE and --pick single")
    assert errors.rstrip().endswith(f"got {got}")
