"""The options that several commands share, and one for each axis."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from search.choices import UsageError
from studies.space.defaults import DEFAULT_AXES
from studies.space.presets import preset_names, preset_summary
from studies.storage.url import has_password
from variants.axes import AXES
from variants.models import MODELS

DEFAULT_STORAGE = "sqlite:///goldilocks.db"
STORAGE_VARIABLE = "GOLDILOCKS_STORAGE"


def without_password(context: typer.Context, parameter: typer.CallbackParam, storage: str) -> str:
    """Let a password through where the environment gave it, and nowhere else.

    Raises:
        UsageError: It stands on the command line, for all users of the host and the history.
    """
    source = context.get_parameter_source(parameter.name or "")
    if has_password(storage) and source is not None and source.name == "COMMANDLINE":
        raise UsageError(
            "--storage must hold no password: give it in PGPASSWORD, in ~/.pgpass or in a service "
            f"file (?service=NAME), or give the whole URL in {STORAGE_VARIABLE}"
        )
    return storage


def storage_words(storage: str) -> str:
    """Return what names a storage in a command to type; nothing where it is found without."""
    known = os.environ.get(STORAGE_VARIABLE) or DEFAULT_STORAGE
    return (
        "" if storage == known or has_password(storage) else f" --storage {shlex.quote(storage)}"
    )


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
Quantization = Annotated[str | None, _axis("quantization")]
Cache = Annotated[str | None, _axis("cache")]
KvDtype = Annotated[str | None, _axis("kv_dtype")]
Gqa = Annotated[str | None, _axis("gqa")]
Execution = Annotated[str | None, _axis("execution")]
SpaceFile = Annotated[
    Path | None,
    typer.Option("--space", metavar="FILE", help="TOML file with a table [axes]; options win."),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help="A space that comes with the product; what else is given wins. "
        + " ".join(f"{name}: {preset_summary(name)}." for name in preset_names()),
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME|PATH",
        help=f"Heads, sizes, layers and score_mod of a model: {', '.join(MODELS)}, or the path of "
        "a config.json in Hugging Face's format.",
    ),
]
DeviceOption = Annotated[
    Literal["auto", "cuda", "cpu"], typer.Option("--device", help="Where to measure.")
]
Storage = Annotated[
    str,
    typer.Option(
        "--storage",
        metavar="URL",
        help="sqlite:///FILE, or postgresql://USER@HOST/DATABASE for several hosts; no password.",
        envvar=STORAGE_VARIABLE,
        callback=without_password,
    ),
]
StudyName = Annotated[
    str | None, typer.Option("--study", metavar="NAME", help="The newest one if not given.")
]
