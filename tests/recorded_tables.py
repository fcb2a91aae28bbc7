"""A small table that looks recorded: its numbers are formulas."""

from __future__ import annotations

import itertools
from pathlib import Path

HEADER = (
    "phase,batch,seq_len,score_mod,backend,precision,cache,execution,status,peak_bytes,latency_ms"
)


def write_table(path: Path) -> Path:
    """Every combination of a small space; a graph of a half-precision static cache is best."""
    rows = [HEADER]
    for batch, seq_len, mod, backend, precision, cache, execution in itertools.product(
        (1, 8),
        (512, 4096),
        ("none",),
        ("eager", "math", "cudnn"),
        ("fp32", "bf16"),
        ("none", "static"),
        ("eager", "cuda_graph"),
    ):
        size = batch * seq_len * (2 if precision == "fp32" else 1) * (9 if cache == "none" else 1)
        peak = 1e6 + 1000 * size * (1 if backend == "cudnn" else 3)
        latency = 1e-5 * size + (0.05 if execution == "cuda_graph" else 0.3)
        status = "oom" if peak > 5e8 else "ok"
        numbers = f"{peak},{latency}" if status == "ok" else ","
        rows.append(
            f"decode,{batch},{seq_len},{mod},{backend},{precision},{cache},{execution},"
            f"{status},{numbers}"
        )
    path.write_text("\n".join(rows))
    return path


def with_columns(path: Path, columns: dict[str, list[str]]) -> Path:
    """Add columns, a cell a row, at the right of a table."""
    header, *rows = path.read_text().splitlines()
    cells = zip(*columns.values(), strict=True)
    lines = [",".join([header, *columns])]
    lines += [",".join([row, *added]) for row, added in zip(rows, cells, strict=True)]
    path.write_text("\n".join(lines))
    return path
