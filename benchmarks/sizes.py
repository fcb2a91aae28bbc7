"""What a study costs that is large: each command, and each ask and tell, at several sizes."""

from __future__ import annotations

import io
import math
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import optuna_dashboard  # noqa: F401 (here, so that its import is in no figure)
import typer

from benchmarks.made_up import HOST, MadeUpBench, fill, made_up_plan
from search.export_command import export as export_command
from search.report_command import report as report_command
from search.sensitivity_command import sensitivity as sensitivity_command
from search.show_commands import show as show_command
from search.show_commands import table as table_command
from studies.dashboard.publisher import publish
from studies.dashboard.serving import application
from studies.session.session import Session
from studies.space.space import survey
from studies.storage.artifacts import artifact_store
from studies.storage.optuna_internals import study_id_of
from studies.study.study import load_study, open_storage, study_names

ASKS = 20
Figures = dict[str, tuple[float, float]]  # wall and CPU seconds by what was done


class Stopwatch:
    """Takes the time of what is done in a process."""

    def __init__(self) -> None:
        """Start without any."""
        self.figures: Figures = {}

    @contextmanager
    def of(self, name: str, times: int = 1) -> Iterator[None]:
        """Take the time of the block, which does something so many times."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        spent = time.perf_counter() - wall, time.process_time() - cpu
        self.figures[name] = spent[0] / times, spent[1] / times


def resume_and_ask(url: str, name: str, few: bool) -> tuple[Figures, float]:
    """Resume a study, and try a few more configurations."""
    watch, plan, bench = Stopwatch(), made_up_plan(few=few), MadeUpBench()
    with watch.of("survey"):  # of a size of its own, whatever was tried of it
        found = survey(plan.space, bench.device())
    with watch.of("read"):
        study = load_study(open_storage(url), name)
    with watch.of("resume"):
        session = Session(study, plan, found, bench, HOST)
    session.trial()  # the first one learns what later ones use
    watch.figures["first ask"] = (session.seconds["search"], math.nan)
    before = dict(session.seconds)
    with watch.of("ask and tell", ASKS):
        for _ in range(ASKS):
            session.trial()
    for stage, shown in (("search", "ask"), ("storage", "tell")):
        watch.figures[shown] = (session.seconds[stage] - before[stage]) / ASKS, math.nan
    return watch.figures, _peak_mib()


def refresh(url: str, name: str, few: bool) -> tuple[Figures, float]:
    """Bring what the dashboard shows up to date, as a run does between trials, and serve it."""
    watch = Stopwatch()
    storage = open_storage(url)
    study = load_study(storage, name)
    with watch.of("refresh"):
        publish(study)
    with tempfile.TemporaryDirectory() as folder:
        served = application(open_storage(url), artifact_store(f"sqlite:///{folder}/x.db"))
        for shown in ("dashboard", "dashboard again"):
            with watch.of(shown):
                answered = _get(served, f"/api/studies/{study_id_of(study)}")
    watch.figures["dashboard MB"] = answered / 1e6, math.nan
    return watch.figures, _peak_mib()


def _get(served: Callable[..., Any], path: str) -> int:
    """Return how many bytes a WSGI application answers with."""
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.url_scheme": "http",
    }
    status: list[str] = []
    answer = served(environ, lambda line, headers, *more: status.append(line))
    size = sum(len(part) for part in answer)
    assert status[0].startswith("200"), status
    return size


def command(what: str, url: str, name: str) -> tuple[Figures, float]:
    """Do what a command does, from opening the database to its last line."""
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        output = Path(folder) / f"{what}.out"
        with watch.of(what):
            if what == "show":
                show_command(name, url)
            elif what == "table":
                table_command(name, url, output.with_suffix(".csv"))
            elif what == "export":
                export_command(name, url, output)
            elif what == "sensitivity":
                sensitivity_command(name, url)
            elif what == "report":
                report_command(name, url, output, attached=False)
        if what == "report":
            watch.figures["report MB"] = output.stat().st_size / 1e6, math.nan
    return watch.figures, _peak_mib()


COMMANDS = ("show", "table", "export", "sensitivity", "report")


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(url: str, count: int, *, few: bool, only: tuple[str, ...] = ()) -> Figures:
    """Return wall and CPU seconds, and MiB, of everything that is done with `count` trials."""
    name = f"sizes-{count}"
    if name not in study_names(open_storage(url)):
        before = time.monotonic()
        in_a_process(_fill, url, name, count, few)
        print(f"filled {name} in {time.monotonic() - before:.0f} s", flush=True)
    figures: Figures = {}
    for what in only or ("resume", *COMMANDS, "dashboard"):
        if what in COMMANDS:
            found, peak = in_a_process(command, what, url, name)
        else:
            found, peak = in_a_process(
                resume_and_ask if what == "resume" else refresh, url, name, few
            )
        figures |= found | {f"{what} peak MiB": (peak, math.nan)}
        for shown, (value, cpu) in found.items():
            print(f"{count:>7} {shown:18} {_text(value):>9} {_text(cpu):>9}", flush=True)
        print(f"{count:>7} {what + ' peak MiB':18} {peak:>9.0f}", flush=True)
    return figures


def in_a_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """Do `work` in a fresh process. `cases` has one, and imports torch, which no command does."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def _fill(url: str, name: str, count: int, few: bool) -> None:
    fill(url, name, count, few=few)


def _text(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def main(
    trials: Annotated[str, typer.Option(help="Sizes, comma-separated.")] = "1000,10000",
    storage: Annotated[
        str | None,
        typer.Option(
            help="Where studies are made, and kept for the next time. A temporary SQLite file if "
            "not given."
        ),
    ] = None,
    few: Annotated[bool, typer.Option(help="A space of a few dozen configurations.")] = False,
    only: Annotated[
        str, typer.Option(help="Of resume, show, table, export, sensitivity, report, dashboard.")
    ] = "",
) -> None:
    """Fill a study of each size and take the time of all that is done with it."""
    sizes = sorted(int(size) for size in trials.split(","))
    chosen = tuple(filter(None, only.split(",")))
    with tempfile.TemporaryDirectory() as folder:
        url = storage or f"sqlite:///{folder}/sizes.db"
        found = {size: measure(url, size, few=few, only=chosen) for size in sizes}
    print("seconds of wall clock (CPU), and the exponent of the growth to the next size")
    print(f"{'':24}" + "".join(f"{size:>20}" for size in sizes))
    for what in found[sizes[0]]:
        line = f"{what:24}"
        for place, size in enumerate(sizes):
            wall, cpu = found[size][what]
            spent = _text(wall) + ("" if math.isnan(cpu) else f" ({_text(cpu)})")
            if place + 1 < len(sizes):
                after = found[sizes[place + 1]][what][0]
                spent += f" ^{math.log(after / wall) / math.log(sizes[place + 1] / size):.1f}"
            line += f"{spent:>20}"
        print(line)


if __name__ == "__main__":
    typer.run(main)
