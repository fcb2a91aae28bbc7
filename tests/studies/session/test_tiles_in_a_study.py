"""An axis that one backend alone has, through a whole study: tiles of flex, on a bench of laws."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from optuna.storages import BaseStorage

from objectives.schema.evaluation import Evaluation
from studies.export.document import build_export, export_schema
from studies.report.page import render_report
from studies.results.results import read_results
from studies.sensitivity.analysis import LATENCY, analyse
from studies.sensitivity.evidence import read_evidence
from tests.fake_bench import FakeBench, measurements
from tests.studies.session.test_session import run, session
from variants.configuration import Configuration
from variants.deploy.loading_schema import LoadableFile

FASTER = {"default": 1.0, "n64w2s3": 0.8, "n128w2s2": 0.9}
AXES: dict[str, tuple[Any, ...]] = {
    "batch": (1, 16),
    "seq_len": (512, 2048),
    "score_mod": ("softcap:50",),
    "backend": ("eager", "flex"),
    "precision": ("fp32", "bf16"),
    "cache": ("concat", "static"),
    "execution": ("eager",),
    "tiles": tuple(FASTER),
}


class LawfulBench(FakeBench):
    def evaluate(self, configuration: Configuration) -> Evaluation:
        workload, choices = configuration.workload, configuration.variant.choices
        latency = 0.01 * workload.batch * workload.seq_len / 512
        latency *= 3.0 if choices["backend"] == "eager" else FASTER[str(choices["tiles"])]
        latency *= 0.5 if choices["precision"] == "bf16" else 1.0
        memory = 5.0 * workload.batch * (2.0 if choices["cache"] == "concat" else 1.0)
        return Evaluation(
            configuration=configuration,
            outcome="MEASURED",
            measurements=measurements(latency, memory, latency * 0.01),
        )

    def _answer(self, configuration: Configuration) -> Evaluation:
        return self.evaluate(configuration)


def test_a_study_learns_which_tiles_are_fast(storage: BaseStorage) -> None:
    of = session(storage, LawfulBench(), axes=AXES, sampler="sweep")
    run(of, of.budget(1000))
    results = read_results(of.study)
    for workload in results.workloads:
        fastest = workload.winners["lowest_latency"].candidate.evaluation.configuration.variant
        assert fastest.key.endswith("eager/n64w2s3")
    changes = {
        (change.axis, change.choice): change
        for change in analyse(read_evidence(of.study, prior=False)).objectives[LATENCY].changes
    }
    effect = changes["tiles", "n64w2s3"].effect
    assert effect is not None
    assert effect.value == pytest.approx(0.8)
    page = render_report(of.study)
    assert "tiles-n64w2s3" in page
    assert '"tiles"' in page
    text = build_export(results).model_dump_json()
    jsonschema.validate(json.loads(text), json.loads(export_schema()))
    loadable = LoadableFile.model_validate_json(text)
    for exported in loadable.workloads:
        choice = exported.configurations[exported.choices["lowest_latency"]].variant
        assert choice.key.endswith("eager/n64w2s3")


def test_the_sampler_proposes_tiles_of_flex_alone(storage: BaseStorage) -> None:
    of = session(storage, LawfulBench(), axes=AXES, sampler="goldilocks")
    keys = run(of, 24)
    assert len(set(keys)) == 24
    tiled = [key for key in keys if key.split("/")[-1] in FASTER]
    assert {key.split("/")[-1] for key in tiled} == {"n64w2s3", "n128w2s2"}
    assert all(" flex/" in key for key in tiled)
