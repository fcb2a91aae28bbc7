"""The exported JSON: its schema, its agreement with the study, and attention loaded from it."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import BaseStorage

import variants
from objectives.accuracy import relative_error
from studies.export import SCHEMA_FILE, Export, build_export, export_schema, write_atomically
from studies.results import read_results
from tests.studies.test_session import run, session
from variants.configuration import Configuration
from variants.inputs import random_hidden, random_weights
from variants.loading import LoadError
from variants.reference import reference_output
from variants.variant import Variant
from variants.workload import Workload


def test_published_schema_is_the_models() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == export_schema()


def test_document_validates_and_agrees_with_the_results(storage: BaseStorage) -> None:
    of = session(storage)
    run(of, 40)
    results = read_results(of.study)
    text = build_export(results).model_dump_json()
    jsonschema.validate(json.loads(text), json.loads(export_schema()))
    document = Export.model_validate_json(text)
    for exported, result in zip(document.workloads, results.workloads, strict=True):
        assert exported.workload == result.workload
        assert [choice.trial for choice in exported.front] == [c.number for c in result.front]
        for name, winner in result.winners.items():
            assert exported.choices[name].trial == winner.candidate.number
            assert exported.choices[name].measurements == winner.candidate.measurements


def exported(tmp_path: Path, variant: Variant, resolved: str, **fields: int) -> Path:
    """A file with what loading reads of an export."""
    workload = Workload.model_validate(
        {"batch": 2, "seq_len": 40, "new_tokens": 3, "q_heads": 4, "kv_heads": 2, "head_dim": 16}
        | fields
    )
    configuration = Configuration(workload=workload, variant=variant)
    choice = {
        "configuration": configuration.model_dump(mode="json"),
        "resolved_backend": resolved,
    }
    document = {
        "schema_version": 1,
        "something": "that loading does not know",
        "workloads": [
            {"workload": workload.model_dump(mode="json"), "choices": {"balanced": choice}}
        ],
    }
    path = tmp_path / "best.json"
    path.write_text(json.dumps(document))
    return path


def loaded_error(path: Path, kind: str) -> float:
    """Decode with a loaded layer as a user would, and compare with the reference."""
    device = torch.device(kind)
    layer = variants.load(path, device="cuda" if kind == "cuda" else "cpu")
    workload = layer.configuration.workload
    weights = random_weights(workload, device, seed=5)
    layer = variants.load(
        path, device="cuda" if kind == "cuda" else "cpu", weights=weights, batch=workload.batch
    )
    hidden = torch.stack(
        [random_hidden(workload, sequence, device, 5) for sequence in range(workload.batch)]
    )
    layer.fill(lambda sequence: hidden[sequence, : workload.seq_len])
    tokens = hidden[:, workload.seq_len :].to(layer.precision.dtype)
    outs = [layer(tokens[:, i : i + 1]) for i in range(workload.new_tokens)]
    return relative_error(torch.cat(outs, dim=1).cpu(), reference_output(workload, device, seed=5))


def test_a_loaded_winner_computes_attention(tmp_path: Path) -> None:
    variant = Variant(backend="flash", precision="bf16", cache="static")
    assert loaded_error(exported(tmp_path, variant, "flash"), "cpu") < 1e-2


def test_a_winning_default_is_pinned_to_what_ran(tmp_path: Path) -> None:
    variant = Variant(backend="auto", precision="fp32", cache="concat")
    path = exported(tmp_path, variant, "math")
    layer = variants.load(path, device="cpu")
    assert layer.configuration.variant.backend == "math"
    assert loaded_error(path, "cpu") < 1e-5


def test_state_dict_has_the_usual_names(tmp_path: Path) -> None:
    path = exported(tmp_path, Variant(backend="math", precision="fp32", cache="static"), "math")
    state = variants.load(path, device="cpu").state_dict()
    assert list(state) == [f"{name}_proj.weight" for name in "qkvo"]


def test_what_this_machine_cannot_run_is_refused_with_reasons(tmp_path: Path) -> None:
    path = exported(tmp_path, Variant(backend="cudnn", precision="bf16", cache="static"), "cudnn")
    with pytest.raises(LoadError, match="cudnn does not exist on cpu"):
        variants.load(path, device="cpu")


def test_wrong_picks_name_what_there_is(tmp_path: Path) -> None:
    path = exported(tmp_path, Variant(backend="math", precision="fp32", cache="static"), "math")
    with pytest.raises(LoadError, match="choice must be one of balanced; got fastest"):
        variants.load(path, choice="fastest")
    with pytest.raises(LoadError, match="got 0; there are: decode/b2/s40"):
        variants.load(path, batch=3)
    with pytest.raises(LoadError, match=r"workload fields must be among phase, .*; got bach"):
        variants.load(path, bach=3)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["schema_version", "workloads", "workload", "choices", "x"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_hostile_documents_are_refused_in_one_line(document: object) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.json"
        path.write_text(json.dumps(document))
        with pytest.raises(LoadError):
            variants.load(path)


@pytest.mark.parametrize("text", ["", "{", "[" * 5000, '{"schema_version": 2, "workloads": []}'])
def test_broken_and_foreign_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(LoadError, match="is not an export of schema version 1"):
        variants.load(path)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["best.json"]


@pytest.mark.cuda
@pytest.mark.parametrize("backend", ["flash", "cudnn", "flex", "efficient"])
def test_a_loaded_winner_computes_attention_on_cuda(tmp_path: Path, backend: str) -> None:
    variant = Variant(backend=backend, precision="bf16", cache="static")
    path = exported(tmp_path, variant, backend, kv_heads=4)
    assert loaded_error(path, "cuda") < 1e-2
