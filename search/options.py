"""The options that several commands share, and one for each axis."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from studies.defaults import DEFAULT_AXES
from variants.axes import AXES

DEFAULT_STORAGE = "sqlite:///goldilocks.db"


def _axis(name: str) -> Any:
    cuda, cpu = (DEFAULT_AXES[kind].get(name) for kind in ("cuda", "cpu"))
    default = ""
    if cuda is not None and cpu is not None:
        texts = [",".join(map(str, choices)) for choices in (cuda, cpu)]
        default = (
            f" [default: {' on CUDA, '.join(texts)} on CPU]"
            if texts[0] != texts[1]
            else (f" [default: {texts[0]}]")
        )
    help_text = f"{AXES[name].summary}; a choice or a list.{default}"
    panel = "Variant axes" if AXES[name].of_variant else "Workload axes"
    return typer.Option(
        "--" + name.replace("_", "-"), metavar="A,B", help=help_text, rich_help_panel=panel
    )


Phase = Annotated[str | None, _axis("phase")]
Batch = Annotated[str | None, _axis("batch")]
SeqLen = Annotated[str | None, _axis("seq_len")]
NewTokens = Annotated[str | None, _axis("new_tokens")]
QHeads = Annotated[str | None, _axis("q_heads")]
KvHeads = Annotated[str | None, _axis("kv_heads")]
HeadDim = Annotated[str | None, _axis("head_dim")]
HiddenSize = Annotated[str | None, _axis("hidden_size")]
Layers = Annotated[str | None, _axis("layers")]
ScoreMod = Annotated[str | None, _axis("score_mod")]
Backend = Annotated[str | None, _axis("backend")]
Precision = Annotated[str | None, _axis("precision")]
Cache = Annotated[str | None, _axis("cache")]
Execution = Annotated[str | None, _axis("execution")]
SpaceFile = Annotated[
    Path | None,
    typer.Option("--space", metavar="FILE", help="TOML file with a table [axes]; options win."),
]
DeviceOption = Annotated[
    Literal["auto", "cuda", "cpu"], typer.Option("--device", help="Where to measure.")
]
Storage = Annotated[
    str, typer.Option("--storage", metavar="URL", help="Any Optuna storage.", envvar=None)
]
StudyName = Annotated[
    str | None, typer.Option("--study", metavar="NAME", help="The newest one if not given.")
]
