"""Optional backends without their packages, with some of them, and with broken ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from objectives.schema.evaluation import Outcome
from objectives.trial.outcomes import outcome_of_error
from studies.space.defaults import DEFAULT_AXES, default_axes
from studies.space.space import fill_defaults, survey
from tests.configurations import configured
from tests.variants.kernels.conftest import VERSIONS, Install
from variants.axes import VARIANT_AXES
from variants.backends import BACKENDS
from variants.backends.cudnn_graph import PACKAGE
from variants.backends.kernel_package import KernelPackage, KernelPackageError, installed_versions
from variants.device import DEVICE_PROFILES, Device
from variants.support import reasons_by_variant, unsupported_reasons
from variants.workload import Workload

H100 = DEVICE_PROFILES["h100"].device
ROOT = Path(__file__).parents[3]
OPTIONAL = [backend for backend in BACKENDS.values() if backend.packages]


def having(*names: str, **fields: object) -> Device:
    return H100.model_copy(
        update={"kernel_packages": {name: VERSIONS[name] for name in names}, **fields}
    )


def reasons(words: str, device: Device, **given: object) -> str:
    choices = {name: str(given.pop(name)) for name in tuple(given) if name in VARIANT_AXES}
    workload = Workload.model_validate({"seq_len": 64, **given})
    configuration = configured(workload, words, **choices)
    found = unsupported_reasons(configuration, device)
    assert reasons_by_variant(workload, device)(configuration.variant) == found
    return "; ".join(found)


def test_packages_are_found_by_version_and_none_is_imported(install: Install) -> None:
    packages = [package for backend in OPTIONAL for package in backend.packages]
    assert installed_versions(packages) == {}
    before = set(sys.modules)
    install(*VERSIONS)
    assert installed_versions(packages) == VERSIONS
    assert not {"flash_attn_3._C", "fa3_fwd._C", "cudnn"} & (set(sys.modules) - before)


def test_starting_imports_no_package_and_no_torch() -> None:
    code = (
        "import sys, search.cli, variants.support, variants.detect; "
        "names = ('torch', 'triton', 'cudnn', 'flash_attn_3', 'fa3_fwd'); "
        "print([name for name in names if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("backend", OPTIONAL, ids=lambda backend: backend.name)
def test_without_its_packages_a_backend_says_so(backend: object) -> None:
    name, packages = backend.name, backend.packages  # type: ignore[attr-defined]
    found = reasons(f"{name} bf16 static", H100)
    listed = " or ".join(package.distribution for package in packages)
    assert found == f"backend {name} needs {listed}, which is not installed"


def test_an_older_version_is_a_reason() -> None:
    old = H100.model_copy(update={"kernel_packages": {"nvidia-cudnn-frontend": "1.9.1"}})
    assert reasons("cudnn_graph bf16 static", old) == (
        "backend cudnn_graph needs nvidia-cudnn-frontend 1.24 or newer, got 1.9.1"
    )


GRAPH = {"execution": "cuda_graph"}
WINDOW = {"score_mod": "sliding_window:20"}
SOFTCAP = {"score_mod": "softcap:50"}
FP8 = {"kv_dtype": "fp8"}
BOTH = ("tokenspeed-fa3", "fa3-fwd")


@pytest.mark.parametrize(
    ("expected", "words", "packages", "given"),
    [
        ("", "fa3 bf16 static", BOTH, {}),
        ("", "fa3 bf16 static", BOTH[1:], {}),
        ("", "fa3 fp16 static", BOTH[:1], {}),
        ("", "fa3 bf16 static", BOTH, GRAPH),
        ("", "fa3 bf16 paged", BOTH, {}),
        ("", "fa3 bf16 ring", BOTH[1:], WINDOW),
        ("", "fa3 bf16 static", BOTH, WINDOW | GRAPH),
        ("", "fa3 bf16 static", BOTH, SOFTCAP | FP8),
        ("", "fa3 bf16", BOTH, {"phase": "prefill", "head_dim": 96, "kv_heads": 4}),
        ("fa3-fwd, which has no fp16", "fa3 fp16 static", BOTH[1:], {}),
        ("tokenspeed-fa3, which is not installed", "fa3 fp16 static", BOTH[1:], {}),
        ("fa3-fwd, which is not installed", "fa3 bf16 static", BOTH[:1], SOFTCAP),
        ("fa3-fwd, which has no fp16", "fa3 fp16 static", BOTH, SOFTCAP),
        ("has no a block table", "fa3 bf16 paged", BOTH[1:], {}),
        (
            "tokenspeed-fa3, which has no softcap, nor fa3-fwd, which has no sliding_window",
            "fa3 bf16 static",
            BOTH,
            {"score_mod": "softcap:50+sliding_window:20"},
        ),
        ("takes no bias, and alibi", "fa3 bf16 static", BOTH, {"score_mod": "alibi"}),
        ("takes no bias, and document", "fa3 bf16 static", BOTH, {"score_mod": "document"}),
        ("takes bf16 or fp16, not fp32", "fa3 fp32 static", BOTH, {}),
        ("has no backward", "fa3 bf16", BOTH, {"phase": "train"}),
        ("head_dim up to 256", "fa3 bf16 static", BOTH, {"head_dim": 264}),
        ("in multiples of 16, got 72", "fa3 bf16 static", BOTH, FP8 | {"head_dim": 72}),
        ("", "fa3 fp16 static", BOTH, FP8 | {"head_dim": 72}),
        ("", "cudnn_graph bf16 static", ("nvidia-cudnn-frontend",), {}),
        ("", "cudnn_graph fp16 static", ("nvidia-cudnn-frontend",), GRAPH | FP8),
        ("needs cache static, not concat", "cudnn_graph bf16 concat", VERSIONS, {}),
        ("needs cache static, not none", "cudnn_graph bf16 none", VERSIONS, {}),
        ("decode steps, not prefill", "cudnn_graph bf16", VERSIONS, {"phase": "prefill"}),
        ("takes no bias", "cudnn_graph bf16 static", VERSIONS, WINDOW),
        ("not additive", "cudnn_graph bf16 static", VERSIONS, SOFTCAP),
    ],
)
def test_each_limit_is_a_reason_in_words(
    expected: str, words: str, packages: tuple[str, ...], given: dict[str, object]
) -> None:
    found = reasons(words, having(*packages), **given)
    assert expected in found
    assert bool(expected) == bool(found)


@pytest.mark.parametrize(
    ("capability", "runs"), [((8, 0), False), ((9, 0), True), ((10, 0), False)]
)
def test_fa3_is_of_hopper_alone(capability: tuple[int, int], runs: bool) -> None:
    found = reasons("fa3 bf16 static", having(*VERSIONS, capability=capability))
    assert ("compute capability" in found) is not runs
    assert bool(found) is not runs


def test_what_is_not_installed_is_not_searched_unless_it_is_named() -> None:
    assert default_axes(H100) == DEFAULT_AXES["cuda"]
    here = having(*VERSIONS)
    usual = DEFAULT_AXES["cuda"]["backend"]
    assert default_axes(here)["backend"] == (*usual, "fa3", "cudnn_graph")
    assert default_axes(having("fa3-fwd"))["backend"] == (*usual, "fa3")
    named = fill_defaults({"backend": ("flash", "fa3")}, default_axes(H100))
    assert named.axes["backend"] == ("flash", "fa3")
    assert set(VARIANT_AXES["backend"].known) == {*usual, "fa3", "cudnn_graph"}


def test_the_default_space_without_packages_is_the_one_before() -> None:
    found = survey(fill_defaults({}, default_axes(H100)), H100)
    backends = {v.backend for variants in found.possible.values() for v in variants}
    assert not backends & {backend.name for backend in OPTIONAL}
    assert not any("not installed" in reason for reason in found.impossible)


def test_a_package_that_cannot_be_loaded_is_refused_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_kernels.py").write_text("raise ImportError('undefined symbol: x\\nmore')")
    monkeypatch.syspath_prepend(str(tmp_path))
    package = KernelPackage(distribution="broken", module="broken_kernels", since="1")
    with pytest.raises(
        KernelPackageError, match=r"^broken cannot be loaded: undefined symbol: x$"
    ):
        package.load()
    assert outcome_of_error(KernelPackageError("x")) is Outcome.REFUSED


def test_a_module_of_another_package_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cudnn.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert PACKAGE.installed_version() is None
