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
from tests.configurations import configured
from tests.studies.test_session import run, session
from variants.inputs import random_hidden, random_weights
from variants.loading import LoadError
from variants.reference import reference_results
from variants.variant import VARIANT_AXES
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


def exported(tmp_path: Path, words: str, resolved: str | None = None, **given: int | str) -> Path:
    """A file with what loading reads of an export; given are workload fields and choices."""
    choices = {name: str(given.pop(name)) for name in tuple(given) if name in VARIANT_AXES}
    workload = Workload.model_validate(
        {"batch": 2, "seq_len": 40, "new_tokens": 3, "q_heads": 4, "kv_heads": 2, "head_dim": 16}
        | given
    )
    configuration = configured(workload, words, **choices)
    choice = {
        "configuration": configuration.model_dump(mode="json"),
        "resolved_backend": resolved or configuration.variant.backend,
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
    # A replayed output is overwritten by the next.
    outs = [layer(tokens[:, i : i + 1]).clone() for i in range(workload.new_tokens)]
    return relative_error(
        torch.cat(outs, dim=1).cpu(), reference_results(workload, device, seed=5)["out"]
    )


@pytest.mark.parametrize(
    ("words", "choices", "most"),
    [
        ("flash bf16 static", {}, 1e-2),
        ("math fp32 concat", {"gqa": "repeat_kv"}, 1e-5),
        ("flash fp32 ring", {"score_mod": "sliding_window:16"}, 1e-5),
        ("flex fp32 paged", {}, 1e-5),
        ("math fp32 static", {"kv_dtype": "int8"}, 2e-2),
        ("math fp32 static", {"kv_dtype": "fp8", "quantization": "int8_weight_only"}, 0.1),
        ("eager fp32 static", {"execution": "compiled"}, 1e-5),
    ],
)
def test_a_loaded_winner_computes_attention(
    tmp_path: Path, words: str, choices: dict[str, str], most: float
) -> None:
    assert loaded_error(exported(tmp_path, words, **choices), "cpu") < most


def test_a_winning_default_is_pinned_to_what_ran(tmp_path: Path) -> None:
    path = exported(tmp_path, "auto fp32 concat", "math")
    layer = variants.load(path, device="cpu")
    assert layer.configuration.variant.backend == "math"
    assert loaded_error(path, "cpu") < 1e-5


def test_state_dict_has_the_usual_names(tmp_path: Path) -> None:
    path = exported(tmp_path, "math fp32 static")
    state = variants.load(path, device="cpu").state_dict()
    assert list(state) == [f"{name}_proj.weight" for name in "qkvo"]


def test_what_this_machine_cannot_run_is_refused_with_reasons(tmp_path: Path) -> None:
    path = exported(tmp_path, "cudnn bf16 static")
    with pytest.raises(LoadError, match="cudnn does not exist on cpu"):
        variants.load(path, device="cpu")


def test_wrong_picks_name_what_there_is(tmp_path: Path) -> None:
    path = exported(tmp_path, "math fp32 static")
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
@pytest.mark.parametrize(
    ("words", "choices", "most"),
    [
        ("flash bf16 static", {}, 1e-2),
        ("cudnn bf16 static", {"execution": "cuda_graph"}, 1e-2),
        ("flex bf16 paged", {}, 1e-2),
        ("flex bf16 static", {"kv_dtype": "fp8", "execution": "cuda_graph"}, 0.1),
        ("efficient bf16 static", {"gqa": "repeat_kv"}, 1e-2),
        ("math bf16 static", {"quantization": "fp8_dynamic", "execution": "compiled"}, 0.1),
    ],
)
def test_a_loaded_winner_computes_attention_on_cuda(
    tmp_path: Path, words: str, choices: dict[str, str], most: float
) -> None:
    assert loaded_error(exported(tmp_path, words, **choices), "cuda") < most
