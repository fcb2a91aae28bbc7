"""From the report to a model: the commands and lines that export, verify and load the winners."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from studies.results.command import in_lines
from studies.results.results import Results
from variants.workload import Phase

FILE = "best.json"
_WIDTH = 64  # of lines: two blocks stand side by side


@dataclass(frozen=True, slots=True)
class Snippet:
    """A few lines to copy."""

    title: str
    about: str
    language: str  # bash, python
    lines: tuple[str, ...]


def snippets(results: Results, storage_words: str) -> list[Snippet]:
    """Return what a user does next; nothing where nothing can be exported.

    Args:
        results: Of the study.
        storage_words: The `--storage` option that the study needs; empty where it needs none.
    """
    won = [result.workload for result in results.workloads if result.winners]
    if not won:
        return []
    phases = {workload.phase for workload in won}
    study = ["--study", results.study_name, *shlex.split(storage_words)]
    export = ["python", "-m", "search", "export", *study, "--output", FILE]
    found = [
        Snippet(
            "Export",
            "One precision, quantization, cache, kv_dtype and gqa for a model that serves all "
            "workloads; with --pick dispatch each workload's own winner, for one that serves few.",
            "bash",
            tuple(in_lines(export, _WIDTH).splitlines()),
        ),
        Snippet(
            "Verify",
            "Where it will run: winners and defaults are measured again, old beside new.",
            "bash",
            (
                f"python -m search verify {FILE}",
                'echo "$?"  # 0: every claim holds here; 1: one does not',
            ),
        ),
    ]
    capacity = max(workload.seq_len + workload.new_tokens for workload in won)
    cached = phases & {Phase.DECODE, Phase.PREFILL}
    cache = f"cache = loaded.cache(capacity={capacity})  # one layer's: prompt and answer"
    given = f'{"cache=cache, " if cached else ""}score_mod="{won[0].score_mod}"'
    found.append(
        Snippet(
            "Load",
            "As attention of any PyTorch layer; tensors are (batch, heads, tokens, head_dim).",
            "python",
            (
                "import variants",
                f'loaded = variants.load("{FILE}")',
                *([cache] if cached else []),
                "out = loaded.attention(",
                f"    query, key, value, {given}",
                ")",
            ),
        )
    )
    if Phase.DECODE in phases:
        found.append(
            Snippet(
                "Decode in transformers",
                "Each decode step of the whole model is captured once and replayed; generate is "
                "called as ever.",
                "python",
                (
                    "from variants import hf",
                    "name = hf.register(loaded)  # before the model is loaded",
                    "model = AutoModelForCausalLM.from_pretrained(",
                    "    path, attn_implementation=name, dtype=loaded.dtype",
                    ").to(loaded.device.kind)",
                    "loaded.quantize(model)  # projections, as was chosen",
                    f"hf.capture_decoding(model, loaded, capacity={capacity})",
                ),
            )
        )
    return found
