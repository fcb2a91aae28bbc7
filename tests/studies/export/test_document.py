"""The exported JSON: its schema, its agreement with the study, and attention loaded from it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import BaseStorage

import variants
import variants.deploy.loading as loading_module
from objectives.metrics.accuracy import relative_error
from studies.export.document import (
    SCHEMA_FILE,
    Export,
    PartlyFilledCache,
    build_export,
    export_schema,
)
from studies.results.results import read_results
from studies.storage.files import write_atomically
from tests.configurations import configured
from tests.studies.session.test_session import run, session
from variants.axes import VARIANT_AXES
from variants.configuration import Configuration
from variants.deploy.key_range import key_range
from variants.deploy.loading import LoadError
from variants.deploy.model_choice import ModelChoice
from variants.detect import detect_device
from variants.device import DEVICE_PROFILES, Device
from variants.layer.inputs import random_hidden, random_weights
from variants.layer.reference import reference_results
from variants.workload import Workload

HERE = detect_device("cpu")
PROFILED = [profile.device for profile in DEVICE_PROFILES.values()]


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


def exported(
    tmp_path: Path,
    words: str,
    resolved: str | None = None,
    device: Device = HERE,
    **given: int | str,
) -> Path:
    """A file with what loading reads of an export; given are workload fields and choices."""
    choices = {name: str(given.pop(name)) for name in tuple(given) if name in VARIANT_AXES}
    workload = Workload.model_validate(
        {"batch": 2, "seq_len": 40, "new_tokens": 3, "q_heads": 4, "kv_heads": 2, "head_dim": 32}
        | given
    )
    configuration = configured(workload, words, **choices)
    choice = {
        "configuration": configuration.model_dump(mode="json"),
        "resolved_backend": resolved or configuration.variant.backend,
    }
    return written(tmp_path, [choice], device)


def written(
    tmp_path: Path, choices: list[dict[str, Any]], device: Device, **changed: object
) -> Path:
    of = [Configuration.model_validate(choice["configuration"]) for choice in choices]
    document = {
        "schema_version": 2,
        "something": "that loading does not know",
        "environment": {
            "device": device.model_dump(mode="json"),
            "driver": "580",
            "cuda": "13.0" if device in PROFILED else torch.version.cuda,
        },
        "pick": "single",
        "prefer": "balanced",
        "workloads": [
            {
                "workload": one.workload.model_dump(mode="json"),
                "choices": {"balanced": choice},
            }
            for one, choice in zip(of, choices, strict=True)
        ],
        "single": {
            "balanced": {"model": ModelChoice.of(of[0].variant).model_dump(), "choices": choices}
        },
    }
    path = tmp_path / "best.json"
    path.write_text(json.dumps(document | changed))
    return path


def loaded_error(path: Path, kind: str) -> float:
    """Decode with a loaded layer as a user would, and compare with the reference."""
    device = torch.device(kind)
    loaded = variants.load(path, device="cuda" if kind == "cuda" else "cpu")
    workload = loaded.configurations[0].workload
    weights = random_weights(workload, device, seed=5)
    layer = loaded.layer(weights=weights, batch=workload.batch)
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
    loaded = variants.load(path, device="cpu")
    assert loaded.configurations[0].variant.backend == "math"
    assert loaded_error(path, "cpu") < 1e-5


def test_state_dict_has_the_usual_names(tmp_path: Path) -> None:
    path = exported(tmp_path, "math fp32 static")
    state = variants.load(path, device="cpu").layer().state_dict()
    assert list(state) == [f"{name}_proj.weight" for name in "qkvo"]


def test_what_this_machine_cannot_run_is_refused_with_reasons(tmp_path: Path) -> None:
    path = exported(tmp_path, "cudnn bf16 static")
    with pytest.raises(LoadError, match="cudnn does not exist on cpu"):
        variants.load(path, device="cpu")


def test_wrong_picks_name_what_there_is(tmp_path: Path) -> None:
    path = exported(tmp_path, "math fp32 static")
    for pick in ("single", "dispatch"):
        with pytest.raises(LoadError, match="choice must be one of balanced; got lowest_latency"):
            variants.load(path, pick=pick, prefer="latency", device="cpu")
        with pytest.raises(LoadError, match="got 0; there are: decode/b2/s40"):
            variants.load(path, pick=pick, batch=3, device="cpu")
    with pytest.raises(LoadError, match=r"workload fields must be among phase, .*; got bach"):
        variants.load(path, bach=3, device="cpu")
    with pytest.raises(ValueError, match="got 0; there are: decode/b2/s40"):
        variants.load(path, device="cpu").layer(batch=3)


def test_another_device_is_refused_unless_it_is_wanted(tmp_path: Path) -> None:
    path = exported(tmp_path, "flash bf16 static", device=DEVICE_PROFILES["h100"].device)
    with pytest.raises(
        LoadError, match=r"measured on NVIDIA H100 80GB HBM3 \(cuda\), and this is"
    ):
        variants.load(path, device="cpu")
    with pytest.warns(UserWarning, match="was measured with torch 2.11.0"):
        loaded = variants.load(path, device="cpu", other_device=True)
    assert loaded.model.cache == "static"


def test_other_software_is_told_of_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = DEVICE_PROFILES["h100"].device
    path = exported(tmp_path, "flash bf16 static", device=gpu)
    here = gpu.model_copy(update={"torch": "2.13.0+cu132", "cudnn": 92000})
    monkeypatch.setattr(loading_module, "detect_device", lambda device: here)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    with pytest.warns(UserWarning) as told:  # noqa: PT030 - the whole text is looked at
        variants.load(path)
    (warning,) = told
    assert str(warning.message) == (
        f"{path} was measured with torch 2.11.0+cu130, not 2.13.0+cu132; CUDA 13.0, not 13.2; "
        "cuDNN 91900, not 92000: its times may not hold here, and its winners may not win; "
        "`python -m search verify` measures them again"
    )
    assert warning.filename == __file__


def test_the_same_software_is_not_worth_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = DEVICE_PROFILES["h100"].device
    monkeypatch.setattr(loading_module, "detect_device", lambda device: gpu)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        variants.load(exported(tmp_path, "flash bf16 static", device=gpu))


def choice_of(words: str, **given: int | str) -> dict[str, Any]:
    shape = {"q_heads": 4, "kv_heads": 2, "head_dim": 32, "seq_len": 40} | given
    of = configured(Workload.model_validate(shape), words)
    return {"configuration": of.model_dump(mode="json"), "resolved_backend": of.variant.backend}


def test_dispatched_winners_must_agree_in_what_a_model_cannot_change(tmp_path: Path) -> None:
    choices = [choice_of("flash bf16 static", batch=1), choice_of("math bf16 static", batch=4)]
    loaded = variants.load(written(tmp_path, choices, HERE), pick="dispatch", device="cpu")
    assert [of.variant.backend for of in loaded.configurations] == ["flash", "math"]
    choices[1] = choice_of("math fp32 static", batch=4)
    path = written(tmp_path, choices, HERE)
    with pytest.raises(LoadError, match=r"must agree .*, got bf16 none static .* and fp32 none"):
        variants.load(path, pick="dispatch", device="cpu")
    assert variants.load(path, pick="dispatch", device="cpu", batch=4).model.precision == "fp32"


def test_a_model_has_one_kind_of_heads(tmp_path: Path) -> None:
    choices = [choice_of("math fp32 static"), choice_of("math fp32 static", kv_heads=4)]
    path = written(tmp_path, choices, HERE)
    with pytest.raises(LoadError, match="one kind of heads, and the file has 4:2 of 32, 4:4 of"):
        variants.load(path, device="cpu")
    assert variants.load(path, device="cpu", kv_heads=2).model.gqa == "native"


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
    with pytest.raises(LoadError, match="is not an export of schema version 2"):
        variants.load(path)


@pytest.mark.parametrize("version", [1, 3])
def test_another_schema_version_is_named(tmp_path: Path, version: int) -> None:
    path = written(tmp_path, [choice_of("math fp32 static")], HERE, schema_version=version)
    with pytest.raises(LoadError, match=f"is of schema version {version}, and this version reads"):
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
        (
            "math bf16 static",
            {"quantization": "fp8_dynamic", "execution": "compiled", "hidden_size": 96},
            0.1,
        ),
    ],
)
def test_a_loaded_winner_computes_attention_on_cuda(
    tmp_path: Path, words: str, choices: dict[str, Any], most: float
) -> None:
    path = exported(tmp_path, words, device=detect_device("cuda"), **choices)
    assert loaded_error(path, "cuda") < most


@given(st.integers(1, 200_000), st.integers(1, 200_000))
def test_what_the_file_says_of_a_partly_filled_cache_holds(length: int, room: int) -> None:
    said = PartlyFilledCache()
    attended = key_range(length, length + room)
    most = max(said.captured_extra_keys, said.captured_extra_share * length)
    assert length <= attended <= min(length + most, length + room)
