"""What `export` prints loads the file as it stands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import InMemoryStorage

from search import cli
from search.views.loading_lines import loading_lines
from studies.export.document import Export, build_export
from studies.results.results import read_results
from studies.study.study import open_storage
from tests.search.test_in_model import AXES, CpuBench
from tests.studies.session.test_session import run, session
from variants.axes import Choice
from variants.configuration import Configuration
from variants.deploy.loading_schema import Pick


class TwoWinners(CpuBench):
    """Another precision wins at each batch, which one model cannot have."""

    def _answer(self, configuration: Configuration) -> Any:
        found = super()._answer(configuration)
        other = (configuration.variant.precision == "fp32") == (configuration.workload.batch == 2)
        assert found.measurements is not None
        memory = found.measurements.memory
        worse = memory.model_copy(update={"peak_mib": memory.peak_mib * (100 if other else 1)})
        measured = found.measurements.model_copy(update={"memory": worse})
        return found.model_copy(update={"measurements": measured})


def exported(bench: CpuBench, pick: Pick, **axes: tuple[Choice, ...]) -> Export:
    of = session(InMemoryStorage(), bench, axes=AXES | axes, sampler="sweep")
    run(of, of.survey.size)
    return build_export(read_results(of.study), pick=pick)


@pytest.mark.parametrize("pick", ["single", "dispatch"])
@pytest.mark.parametrize(
    "axes",
    [{}, {"q_heads": (8, 16)}, {"batch": (1, 2)}, {"head_dim": (32, 64), "batch": (1, 2)}],
    ids=str,
)
def test_the_lines_load_what_was_exported(
    axes: dict[str, tuple[Choice, ...]], pick: Pick, tmp_path: Path
) -> None:
    document = exported(CpuBench(time=0.5, memory=0.5), pick, **axes)
    path = tmp_path / "it's best.json"
    path.write_text(document.model_dump_json())
    names: dict[str, Any] = {}
    exec("\n".join(loading_lines(document, path)), names)
    loaded = names["loaded"]
    of_one_model = len({w.workload.q_heads for w in document.workloads}) == 1
    of_one_model &= len({w.workload.head_dim for w in document.workloads}) == 1
    assert (len(loaded.configurations) == len(document.workloads)) == of_one_model


def test_winners_that_no_model_can_have_together_are_loaded_one_by_one(tmp_path: Path) -> None:
    axes: dict[str, tuple[Choice, ...]] = {"batch": (1, 2), "precision": ("fp32", "bf16")}
    document = exported(TwoWinners(), "dispatch", **axes)
    path = tmp_path / "best.json"
    path.write_text(document.model_dump_json())
    lines = loading_lines(document, path)
    assert "phase='decode', batch=1" in lines[1]
    names: dict[str, Any] = {}
    exec("\n".join(lines), names)
    assert len(names["loaded"].configurations) == 1


def test_export_prints_how_to_load_and_how_to_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    of = session(open_storage("sqlite:///goldilocks.db"), CpuBench(), axes=AXES, sampler="random")
    run(of, 2)
    monkeypatch.setattr(sys, "argv", ["search", "export", "--output", "best.json"])
    assert cli.main() == 0
    shown = capsys.readouterr().out
    assert "loaded = variants.load('best.json')" in shown
    assert "python -m search verify best.json" in shown
    monkeypatch.setattr(sys, "argv", ["search", "export"])
    assert cli.main() == 0
    Export.model_validate_json(capsys.readouterr().out)  # to a pipe, the document alone
