"""The default study with one worker and with several: how much sooner, and the same numbers?"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cases import Count, Minutes
from benchmarks.same_numbers import compare, measured
from studies.study.study import load_study, open_storage

STUDY = "two-gpus"


def run(workers: int, url: str, caches: Path, options: Sequence[str]) -> float:
    """Run a study with caches of its own, so that it compiles what it measures.

    Returns its seconds, from the command to its end.
    """
    words = ["run", "--study", STUDY, "--storage", url, "--workers", str(workers), *options]
    own = {f"{name}_CACHE_DIR": str(caches / name) for name in ("TORCHINDUCTOR", "TRITON")}
    before = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "search", *words], env=os.environ | own, check=False
    )
    if done.returncode:
        sys.exit(f"the run with {workers} workers ended with status {done.returncode}")
    return time.monotonic() - before


def main(
    trials: int = 200,
    workers: Annotated[int, typer.Option(min=2)] = 2,
    device: str = "auto",
    seed: int = 0,
    count: Count = 30,
    minutes: Minutes = 120.0,
    folder: Annotated[
        Path | None, typer.Option(help="Keep the studies here; what was run is not run again.")
    ] = None,
    once: Annotated[
        bool, typer.Option(help="One run now. The other by the same call again, with --folder.")
    ] = False,
    options: Annotated[
        list[str] | None, typer.Argument(help="Behind `--`: more options of `search run`.")
    ] = None,
) -> None:
    """Run the study with several workers and with one, in fresh databases, and compare both."""
    if once and folder is None:
        raise typer.BadParameter("--once needs --folder, for the other run to be found")
    found, seconds = {}, {}
    more = ["--trials", str(trials), "--device", device, "--seed", str(seed)]
    more += ["--minutes", str(minutes / 2), *(options or [])]
    with nullcontext(folder) if folder else tempfile.TemporaryDirectory() as place:
        Path(place).mkdir(exist_ok=True)
        for n in (workers, 1):  # in this order: a machine with too few says so at once
            url, took = f"sqlite:///{Path(place) / f'{n}.db'}", Path(place) / f"{n}.seconds"
            ran = took.exists()
            if not ran:
                took.write_text(str(run(n, url, Path(place) / f"caches-{n}", more)))
            wall_s = float(took.read_text())
            told, found[n] = measured(load_study(open_storage(url), STUDY))
            seconds[n] = wall_s / told
            print(f"{n} workers: {wall_s:.1f} s for {told} trials", flush=True)
            if once and not ran and n != 1:
                return
    compare(found[1], found[workers], count)
    ratio = seconds[1] / seconds[workers]
    wanted = " (wanted: ≥ 1.7)" if workers == 2 else ""
    print(f"a trial with one worker takes {ratio:.2f} times as long as with {workers}{wanted}")


if __name__ == "__main__":
    typer.run(main)
