"""The commands that search a study's space again."""

from __future__ import annotations

import shlex

from objectives.schema.limits import Limits
from studies.results.results import Results
from variants.program import program

_OPTIONS = {  # of limits; those without one are the same in every run
    "max_error": "--max-error",
    "max_memory_gib": "--max-memory-gib",
    "max_stall_ms": "--max-stall-ms",
    "deadline_s": "--deadline-s",
}


def run_command(results: Results) -> list[str]:
    """Return the words of the `run` that searches this space, as far as it was searched."""
    plan = results.plan
    words = [*program().split(), "run", "--trials", str(max(1, len(results.trials)))]
    for axis, choices in plan.space.axes.items():
        words += ["--" + axis.replace("_", "-"), ",".join(map(str, choices))]
    usual = Limits()
    for name, option in _OPTIONS.items():
        value = getattr(plan.limits, name)
        # The usual error depends on what is searched, so it is always said.
        if value is not None and (name == "max_error" or value != getattr(usual, name)):
            words += [option, f"{value:g}"]
    return [*words, "--sampler", plan.sampler, "--seed", str(plan.seed)]


def in_lines(words: list[str], width: int = 92) -> str:
    """Return a command for a shell, folded where options begin."""
    lines = [""]
    for place, word in enumerate(words):
        # An option stays with its value.
        value = words[place + 1] if place + 1 < len(words) and word.startswith("--") else ""
        more = len(shlex.quote(word)) + len(value) + 2
        if word.startswith("--") and len(lines[-1]) + more > width:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += (" " if lines[-1] else "") + shlex.quote(word)
    return "\n".join(lines)
