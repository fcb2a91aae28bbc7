"""Packages that are found and imported as the real ones are, and compute on a CPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.variants.kernels import reference_kernels
from variants.backends import BACKENDS, cudnn_graph, fa3, kernel_package

FAKES = Path(__file__).parent / "fake_packages"
VERSIONS = {
    "tokenspeed-fa3": "3.0.0.post20260810",
    "fa3-fwd": "0.0.3",
    "nvidia-cudnn-frontend": "1.24.1",
}
PROOFS = {
    "fa3": r"^(flash_attn_3|fa3_fwd)::fwd$",
    "cudnn_graph": r"^goldilocks::cudnn_graph_sdpa$",
}

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install packages by name, `tokenspeed-fa3="2.9"` in a version of its own."""

    def installing(*names: str, **versions: str) -> None:
        wanted = {name: VERSIONS[name] for name in names}
        wanted |= {name.replace("_", "-"): version for name, version in versions.items()}
        for name, version in wanted.items():
            folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            )
        monkeypatch.syspath_prepend(str(FAKES))
        monkeypatch.syspath_prepend(str(tmp_path))

    caches = (kernel_package._loaded, cudnn_graph._plan, cudnn_graph._handle, fa3._forward_of)
    for cached in caches:
        cached.cache_clear()
    reference_kernels.CALLS.clear()
    yield installing
    for cached in caches:
        cached.cache_clear()


@pytest.fixture
def on_cpu(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install everything, and declare of a CPU what is declared of a GPU."""
    install(*VERSIONS)
    for name, proof in PROOFS.items():
        support = dataclasses.replace(
            BACKENDS[name].support["cuda"],
            min_capability=(0, 0),
            max_capability=None,
            max_head_dim=(((0, 0), 256),),
            reads_stored_capability=(0, 0),
        )
        backend = BACKENDS[name]
        there = dataclasses.replace(
            backend,
            support={**backend.support, "cpu": support},
            proof={**backend.proof, "cpu": proof},
        )
        monkeypatch.setitem(BACKENDS._entries, name, there)
        monkeypatch.setattr({"fa3": fa3, "cudnn_graph": cudnn_graph}[name], name.upper(), there)

    class Stream:
        cuda_stream = 7

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream)
