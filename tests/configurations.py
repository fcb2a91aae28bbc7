"""Configurations in a few words."""

from __future__ import annotations

from variants.configuration import Configuration
from variants.workload import Workload


def configured(workload: Workload, words: str, **choices: str) -> Configuration:
    """`configured(workload, "flash bf16 static", execution="compiled")`."""
    names = ("backend", "precision", "cache")
    return Configuration.of(workload, dict(zip(names, words.split(), strict=False)) | choices)
