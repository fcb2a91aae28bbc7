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
from optuna.storages import BaseStorage, InMemoryStorage

import variants
import variants.deploy.loading as loading_module
from objectives.metrics.accuracy import relative_error
from objectives.schema.evaluation import Evaluation
from studies.export.document import (
    SCHEMA_FILE,
    Export,
    PartlyFilledCache,
    build_export,
    export_schema,
)
from studies.export.writing import document_text
from studies.results.results import read_results
from studies.storage.files import write_atomically
from tests.configurations import configured
from tests.fake_bench import FakeBench
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
    text = document_text(build_export(results, full=True), full=True)
    jsonschema.validate(json.loads(text), json.loads(export_schema()))
    document = Export.model_validate_json(text)
    for exported, result in zip(document.workloads, results.workloads, strict=True):
        assert exported.workload == result.workload
        numbers = [choice.trial for choice in exported.configurations]
        assert len(set(numbers)) == len(numbers)
        assert [numbers[place] for place in exported.front] == [c.number for c in result.front]
        for name, winner in result.winners.items():
            assert exported.chosen[name].trial == winner.candidate.number
            assert exported.chosen[name].measurements == winner.candidate.measurements


def test_a_small_file_of_36_workloads_is_under_200_kb_and_says_the_same() -> None:
    of = session(InMemoryStorage(), LongWinded(), axes=THIRTY_SIX, sampler="random")
    run(of, 180)
    for result in read_results(of.study).workloads:
        of.retiming.measure(result)
    results = read_results(of.study)
    whole = build_export(results, full=True)
    text = document_text(build_export(results))
    assert len(text) < 200_000 < len(document_text(whole, full=True))
    small = Export.model_validate_json(text)
    assert len(small.workloads) == 36
    for mine, theirs in zip(small.workloads, whole.workloads, strict=True):
        assert mine.chosen.keys() == theirs.chosen.keys()
        for name, choice in mine.chosen.items():
            assert choice.variant == theirs.chosen[name].variant
            assert choice.speedup == pytest.approx(theirs.chosen[name].speedup, rel=1e-6)
            measured = theirs.chosen[name].measurements
            assert choice.measurements.memory.peak_mib == pytest.approx(measured.memory.peak_mib)
    for name in small.single:
        ours, others = small.of_single(name), whole.of_single(name)
        for one, other in zip(ours, others, strict=True):
            assert (one and one.variant) == (other and other.variant)


THIRTY_SIX = {
    "batch": (1, 4, 16),
    "seq_len": (512, 2048, 8192),
    "score_mod": ("none", "alibi", "softcap:50", "sliding_window:256"),
}


class LongWinded(FakeBench):
    """Where many kernels with long names run in each step, as on a GPU."""

    def _answer(self, configuration: Configuration) -> Evaluation:
        found = super()._answer(configuration)
        if found.measurements is None:
            return found
        kernels = tuple(f"void kernel_{number}<{'a' * 200}>" for number in range(12))
        measured = found.measurements.model_copy(update={"kernels": kernels})
        return found.model_copy(update={"measurements": measured})


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
    return written(tmp_path, [(configuration, resolved)], device)


def written(
    tmp_path: Path,
    choices: list[tuple[Configuration, str | None]],
    device: Device,
    **changed: object,
) -> Path:
    """A file of one choice for each workload, with the backend that ran where it is another."""
    document = {
        "schema_version": 3,
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
                "workload": of.workload.model_dump(mode="json"),
                "configurations": [
                    {
                        "variant": of.variant.model_dump(mode="json"),
                        "resolved_backend": resolved or of.variant.backend,
                    }
                ],
                "choices": {"balanced": 0},
            }
            for of, resolved in choices
        ],
        "single": {
            "balanced": {
                "model": ModelChoice.of(choices[0][0].variant).model_dump(),
                "choices": [0] * len(choices),
            }
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


def choice_of(words: str, **given: int | str) -> tuple[Configuration, None]:
    shape = {"q_heads": 4, "kv_heads": 2, "head_dim": 32, "seq_len": 40} | given
    return configured(Workload.model_validate(shape), words), None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"choices": {"balanced": 1}}, "choices.balanced must be below 1"),
        ({"choices": {"balanced": -1}}, "greater than or equal to 0"),
        ({"configurations": []}, "choices.balanced must be below 0"),
    ],
)
def test_a_place_that_is_none_is_refused(
    tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    path = written(tmp_path, [choice_of("math fp32 static")], HERE)
    document = json.loads(path.read_text())
    document["workloads"][0] |= changed
    path.write_text(json.dumps(document))
    with pytest.raises(LoadError, match=said):
        variants.load(path, device="cpu")


@pytest.mark.parametrize(
    ("places", "said"), [([], "for each of 1 workloads, got 0"), ([1], "must be below 1")]
)
def test_a_single_choice_has_a_place_for_each_workload(
    tmp_path: Path, places: list[int], said: str
) -> None:
    path = written(tmp_path, [choice_of("math fp32 static")], HERE)
    document = json.loads(path.read_text())
    document["single"]["balanced"]["choices"] = places
    path.write_text(json.dumps(document))
    with pytest.raises(LoadError, match=said):
        variants.load(path, device="cpu")


def test_dispatched_winners_must_agree_in_what_a_model_cannot_change(tmp_path: Path) -> None:
    choices = [choice_of("flash bf16 static", batch=1), choice_of("math bf16 static", batch=4)]
    loaded = variants.load(written(tmp_path, choices, HERE), pick="dispatch", device="cpu")
    assert [of.variant.backend for of in loaded.configurations] == ["flash", "math"]
    choices[1] = choice_of("math fp32 static", batch=4)
    path = written(tmp_path, choices, HERE)
    with pytest.raises(LoadError, match=r"must agree .*, got precision bf16, .* precision fp32"):
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


@pytest.mark.parametrize("text", ["", "{", "[" * 5000, '{"schema_version": 3, "workloads": []}'])
def test_broken_and_foreign_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(LoadError, match="is not an export of schema version 3"):
        variants.load(path)


@pytest.mark.parametrize("version", [2, 4])
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
