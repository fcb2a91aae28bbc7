"""Compiling ahead: nothing of a helper reaches a trial, and none runs while one is timed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from objectives.precompile import precompile_pool as pool_module
from objectives.precompile import queue as queue_module
from objectives.precompile.pause import PausedProcesses
from objectives.precompile.precompile_pool import MOST_DEATHS, PrecompilePool
from objectives.precompile.queue import CompileQueue
from objectives.process.client import ProcessUnavailable
from objectives.process.messages import Message
from objectives.process.placement import Placement
from objectives.schema.environment import read_environment
from objectives.schema.evaluation import Outcome
from objectives.schema.limits import Limits
from objectives.trial import evaluator as evaluate_module
from objectives.trial.bench import DeviceBench
from objectives.trial.evaluator import Evaluator
from tests.configurations import configured
from tests.objectives.precompile.toy_compile_handler import TOY
from tests.objectives.timing.timing_handler import TIMING
from tests.objectives.trial.faulty_handler import ENVIRONMENT
from variants.configuration import Configuration
from variants.device import DEVICE_PROFILES, DeviceKind
from variants.workload import Phase, Workload

CPU = DEVICE_PROFILES["cpu"].device
DECODE = Workload(batch=2, seq_len=200, new_tokens=3, q_heads=4, head_dim=32)
COMPILE_HANDLER, TIMING_HANDLER = (
    "tests.objectives.precompile.toy_compile_handler:start_handler",
    "tests.objectives.timing.timing_handler:start_handler",
)


def flex(seq_len: int, **choices: str) -> Configuration:
    workload = DECODE.model_copy(update={"seq_len": seq_len})
    return configured(workload, "flex fp32 static", **choices)


def soon(tell: Callable[[], object]) -> bool:
    """Tell whether something is so within a while, of which a busy machine needs much."""
    for _ in range(1800):
        if tell():
            return True
        time.sleep(0.05)
    return False


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def gone(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


class Place:
    """A bench on toys, and what they wrote."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self._patch, self.folder, self.benches = patch, folder, list[DeviceBench]()
        patch.setenv(ENVIRONMENT, read_environment(CPU).model_dump_json())
        self.queue = CompileQueue()

    def pool(self, do: str, count: int = 1, deadline_s: float = 60.0) -> PrecompilePool:
        self._patch.setenv(TOY, json.dumps({"do": do, "folder": str(self.folder)}))
        return PrecompilePool(
            self.queue, count, seed=0, device="cpu", deadline_s=deadline_s, target=COMPILE_HANDLER
        )

    def bench(
        self, pool: PrecompilePool | None, do: str = "measures", limit_s: float = 60
    ) -> DeviceBench:
        self._patch.setenv(TIMING, json.dumps({"do": do, "log": str(self.folder / "log")}))
        limits = Limits(deadline_s=limit_s)
        bench = DeviceBench(limits, seed=0, device="cpu", target=TIMING_HANDLER, precompile=pool)
        self.benches.append(bench)
        return bench

    def stamps(self) -> list[float]:
        return [float(line) for line in lines(self.folder / "stamps")[:-1]]

    def still_stamps(self) -> bool:
        count = len(self.stamps())
        return soon(lambda: len(self.stamps()) > count + 5)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Place]:
    monkeypatch.setattr(pool_module, "DRAIN_S", 0.2)
    found = Place(monkeypatch, tmp_path)
    yield found
    for bench in found.benches:
        bench.close()


def test_each_compilation_is_taken_once_the_likeliest_first() -> None:
    queue = CompileQueue()
    alike = flex(200, quantization="int8_weight_only"), flex(200)
    deeper = configured(DECODE.model_copy(update={"layers": 2}), "flex fp32 static")
    queue.wish([*alike, deeper, configured(DECODE, "math fp32 static"), flex(300)])
    assert queue.take(lambda: False) in (*alike, deeper)
    queue.wish([flex(400), flex(200), flex(300)])  # the newest order counts
    assert [queue.take(lambda: False) for _ in range(2)] == [flex(400), flex(300)]
    compiled = [
        configured(DECODE, "math fp32 static", execution="compiled", quantization=quantization)
        for quantization in ("none", "ptdq_int8")
    ]
    queue.wish(compiled)  # the whole layer: its projections count
    assert [queue.take(lambda: False) for _ in range(2)] == compiled
    assert queue.take(lambda: True) is None


def test_what_is_measured_now_is_not_taken_and_what_was_taken_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = CompileQueue()
    queue.wish([flex(200), flex(300)])
    assert queue.claim(flex(300)) < queue_module.PATIENCE_S
    assert queue.take(lambda: False) == flex(200)
    finisher = threading.Timer(0.1, queue.finish, (flex(200), 7.0))
    finisher.start()
    queue.claim(flex(200))
    assert queue.compiled_in(flex(200)) == 7.0
    finisher.join()
    queue.wish([flex(300), flex(400)])
    assert queue.take(lambda: False) == flex(400)
    monkeypatch.setattr(queue_module, "PATIENCE_S", 0.05)
    queue.claim(flex(400))  # a helper that hangs is not waited for
    assert queue.compiled_in(flex(400)) is None


def test_helpers_that_are_behind_leave_the_likeliest_to_who_measures() -> None:
    queue = CompileQueue()
    queue.claim(flex(100))  # by itself
    queue.wish([flex(200), flex(300), flex(400)])
    assert queue.take(lambda: False) == flex(300)
    queue.finish(flex(300), 7.0)
    queue.claim(flex(300))
    assert [queue.take(lambda: False) for _ in range(2)] == [flex(200), flex(400)]
    queue.claim(flex(500))
    queue.wish([flex(600)])
    assert queue.take(lambda: False) == flex(600)  # better than nothing


def test_without_helpers_there_is_no_process_and_no_word_of_them(place: Place) -> None:
    bench = place.bench(None)
    seconds = bench.evaluate(flex(200)).seconds
    assert "ahead" not in seconds
    assert lines(place.folder / "log") == ["null"]
    children = {child.pid for child in psutil.Process().children()}
    assert bench.process.pid in children
    commands = [psutil.Process(pid).cmdline() for pid in children]
    assert not any("toy_compile_handler" in word for command in commands for word in command)


def test_a_trial_meets_what_a_helper_compiled(place: Place) -> None:
    bench = place.bench(place.pool("compiles"))
    place.queue.wish([flex(200), flex(300), configured(DECODE, "math fp32 static")])
    bench.evaluate(flex(100))
    assert soon(lambda: place.queue.stats.compiled == 2)
    for seq_len in (200, 300):
        assert bench.evaluate(flex(seq_len)).outcome is Outcome.MEASURED
    bench.evaluate(configured(DECODE, "math fp32 static"))
    stats = place.queue.stats
    assert (stats.compiled, stats.met, stats.missed) == (2, 2, 1)
    assert stats.line().startswith("compiled ahead: 2 (7.0 s each); met by trials, in their")
    jobs = [Configuration.model_validate_json(job) for job in lines(place.folder / "jobs")]
    assert sorted(job.workload.seq_len for job in jobs) == [200, 300]


def test_deadlines_are_not_learnt_from_warm_caches(place: Place) -> None:
    bench = place.bench(place.pool("compiles"))
    place.queue.wish([flex(200)])
    warm, cold = bench.evaluate(flex(100)), bench.evaluate(flex(200))
    assert soon(lambda: place.queue.compiled_in(flex(200)) == 7.0)
    one = {"first step": 1.0, "latency": 2.0}
    assert bench._cold(warm.model_copy(update={"seconds": one})) == one
    assert bench._cold(cold.model_copy(update={"seconds": one})) == one | {"first step": 7.0}


@pytest.mark.parametrize(
    "do",
    [
        *("fails", "crashes", "hangs", "prints_garbage", "sends_garbage", "answers_nonsense"),
        *("fails_for_good", "skips", "does_not_start"),
    ],
)
def test_nothing_that_a_helper_does_is_an_outcome(place: Place, do: str) -> None:
    deadline_s = 0.15 if do in ("hangs", "sends_garbage") else 60.0
    bench = place.bench(place.pool(do, deadline_s=deadline_s))
    for seq_len in range(100, 100 + 3 * MOST_DEATHS):
        place.queue.wish([flex(seq_len + 1), flex(seq_len + 2)])
        evaluation = bench.evaluate(flex(seq_len))
        assert (evaluation.outcome, evaluation.reason) == (Outcome.MEASURED, "")
    assert len(bench.process.start_seconds) == 1
    compiled = place.queue.stats.compiled
    assert compiled > 0 if do == "prints_garbage" else compiled == 0


@pytest.mark.parametrize("do", ["crashes", "fails_for_good", "does_not_start"])
def test_helpers_that_only_die_are_given_up(place: Place, do: str) -> None:
    pool = place.pool(do)
    for seq_len in range(100, 100 + 4 * MOST_DEATHS):
        place.queue.wish([flex(seq_len)])
        pool.ready()
        assert soon(lambda: not any(thread.is_alive() for thread in pool._threads.values()))
    assert pool._deaths == MOST_DEATHS
    assert len(lines(place.folder / "jobs")) == (0 if do == "does_not_start" else MOST_DEATHS)
    assert pool.groups() == []


def test_no_helper_runs_while_memory_and_latency_are_measured(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet: list[tuple[float, float]] = []

    def wrapped(name: str) -> None:
        measure = getattr(evaluate_module, name)

        def noted(*arguments: object, **named: object) -> object:
            begin = time.monotonic()
            time.sleep(0.1)  # long enough to stamp
            found = measure(*arguments, **named)
            quiet.append((begin, time.monotonic()))
            return found

        monkeypatch.setattr(evaluate_module, name, noted)

    for name in ("visit_first", "run_steps_warm", "measure_memory", "measure_latency"):
        wrapped(name)
    pool = place.pool("stamps")
    pool.ready()
    try:
        place.queue.wish([flex(200)])
        assert soon(place.stamps)
        evaluator = Evaluator(CPU, Limits(sampling_s=0.1), seed=0)
        words = "math fp32 static"
        evaluator.evaluate(configured(DECODE, words), PausedProcesses(pool.groups()))
        assert place.still_stamps()
        assert len(quiet) == 4
        beside = [t for t in place.stamps() for begin, end in quiet if begin <= t <= end]
        assert beside == []
        quiet.clear()
        evaluator.evaluate(configured(DECODE, words))  # nobody asks for quiet: it would show
        assert place.still_stamps()
        assert any(begin <= t <= end for t in place.stamps() for begin, end in quiet)
    finally:
        pool.release(drain=False)


def test_quiet_begins_once_helpers_stand_still(place: Place) -> None:
    pool = place.pool("stamps", count=2)
    pool.ready()
    try:
        place.queue.wish([flex(200), flex(300)])
        assert soon(place.stamps)
        for _ in range(50):
            with PausedProcesses(pool.groups()):
                statuses = {psutil.Process(group).status() for _, group in pool.groups()}
            assert statuses == {psutil.STATUS_STOPPED}
    finally:
        pool.release(drain=False)


def test_helpers_go_on_while_something_is_compiled(place: Place) -> None:
    from torch._dynamo.callback import CallbackTrigger, callback_handler

    pool = place.pool("stamps")
    pool.ready()
    try:
        place.queue.wish([flex(200)])
        assert soon(place.stamps)
        with PausedProcesses(pool.groups()):
            silent = len(place.stamps())
            time.sleep(0.1)
            assert len(place.stamps()) <= silent + 1  # the one that was half written
            with callback_handler.install_callbacks(CallbackTrigger.DYNAMO, "0/0"):
                assert place.still_stamps()
            silent = len(place.stamps())
            time.sleep(0.1)
            assert len(place.stamps()) <= silent + 1
        assert place.still_stamps()
        assert not callback_handler.start_callbacks + callback_handler.end_callbacks
    finally:
        pool.release(drain=False)


def test_helpers_go_on_when_who_stopped_them_hangs_and_is_killed(place: Place) -> None:
    bench = place.bench(place.pool("stamps"), "hangs_while_paused", limit_s=1)
    place.queue.wish([flex(300)])
    assert bench.evaluate(flex(200)).outcome is Outcome.TIMED_OUT
    assert place.still_stamps()


def test_a_death_while_helpers_hold_memory_is_confirmed_without_them(place: Place) -> None:
    pool = place.pool("stamps", count=2)
    bench = place.bench(pool, "dies_while_paused")
    place.queue.wish([flex(300)])
    assert bench.evaluate(flex(200)).outcome is Outcome.MEASURED
    first, second = map(json.loads, lines(place.folder / "log"))
    assert (len(first), second) == (2, [])
    assert all(soon(lambda pid=pid: gone(pid)) for place_ in first for pid in place_)
    pool.ready()  # they come back
    assert len(pool.groups()) == 2


def test_out_of_memory_beside_helpers_is_confirmed_when_theirs_is_free(place: Place) -> None:
    bench = place.bench(place.pool("stamps"), "lacks_memory_beside_others")
    place.queue.wish([flex(300)])
    assert bench.evaluate(flex(200)).outcome is Outcome.MEASURED
    assert len(bench.process.start_seconds) == 2


def test_a_process_that_finds_no_room_beside_helpers_is_started_without(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = place.pool("stamps")
    bench = place.bench(pool)
    start = bench.process.start

    def start_alone() -> Message:
        if pool.groups():
            raise ProcessUnavailable("CUDA-capable device(s) is/are busy or unavailable")
        return start()

    bench.device()
    bench.process.kill()
    monkeypatch.setattr(bench.process, "start", start_alone)
    assert bench.evaluate(flex(200)).outcome is Outcome.MEASURED


def test_finalists_are_timed_without_helpers(place: Place) -> None:
    pool = place.pool("compiles")
    bench = place.bench(pool)
    bench.evaluate(flex(200))
    assert len(pool.groups()) == 1
    bench.compare([flex(200)])
    assert pool.groups() == []


def test_what_is_being_compiled_is_waited_for_at_the_end(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "DRAIN_S", 30.0)
    pool = place.pool("compiles")
    pool.ready()
    ((session, group),) = pool.groups()
    os.killpg(group, signal.SIGSTOP)  # so that it cannot be done yet
    place.queue.wish([flex(200)])
    assert soon(lambda: place.queue._in_flight)
    assert pool.release(drain=True)  # lets it go on
    assert place.queue.compiled_in(flex(200)) == 7.0
    assert soon(lambda: gone(session) and gone(group))
    assert not pool.release(drain=True)


def below(pid: int) -> list[int]:
    """Return a guard's process id and those of all below it."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


@pytest.mark.parametrize("hangup", ["SIG_DFL", "SIG_IGN"])  # as `nohup` has it
@pytest.mark.parametrize("killed", ["parent", "guard"])
def test_no_stopped_helper_is_left_behind(place: Place, killed: str, hangup: str) -> None:
    code = (
        f"import signal; signal.signal(signal.SIGHUP, signal.{hangup});"
        "import os, sys, time; from objectives.precompile.queue import CompileQueue;"
        "from objectives.precompile.precompile_pool import PrecompilePool;"
        "from objectives.precompile.pause import PausedProcesses;"
        "from tests.objectives.precompile.test_precompile_pool import COMPILE_HANDLER as target;"
        "from tests.objectives.precompile.test_precompile_pool import below, flex, soon;"
        "queue = CompileQueue(); queue.wish([flex(200)]);"
        "pool = PrecompilePool(queue, 1, seed=0, device='cpu', deadline_s=60, target=target);"
        f"pool.ready(); soon(lambda: os.path.exists({str(place.folder / 'stamps')!r}));"
        "PausedProcesses(pool.groups()).__enter__();"
        "print(*below(pool.groups()[0][0]), flush=True); sys.stdin.read()"
    )
    place.pool("stamps")  # for its environment
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    guard, *pids = map(int, parent.stdout.readline().split())
    assert len(pids) == 2  # the helper and its compiler
    # One that waits for a core is stopped once it gets one.
    assert all(
        soon(lambda pid=pid: psutil.Process(pid).status() == psutil.STATUS_STOPPED) for pid in pids
    )
    assert psutil.Process(guard).status() != psutil.STATUS_STOPPED
    os.kill(parent.pid if killed == "parent" else guard, signal.SIGKILL)
    assert all(soon(lambda pid=pid: gone(pid)) for pid in (guard, *pids))
    parent.kill()
    parent.communicate()


def test_a_helper_that_ended_is_not_started_by_a_job(place: Place) -> None:
    pool = place.pool("compiles")
    pool.ready()
    ((_, group),) = pool.groups()
    os.kill(group, signal.SIGKILL)
    assert soon(lambda: gone(group))
    place.queue.wish([flex(200)])
    assert soon(lambda: pool.groups() == [])
    assert lines(place.folder / "jobs") == []
    pool.release(drain=False)


def test_helpers_are_bounded_by_cores_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = 7 * 2**30

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    assert pool_module.most_processes(Placement("", cores=(0,))) == 0
    assert pool_module.most_processes(Placement("", cores=(0, 1, 2))) == 2
    assert pool_module.most_processes(Placement("", cores=tuple(range(64)))) == 3
    assert pool_module.most_processes(Placement("", cores=tuple(range(64))), 2) == 1
    assert pool_module.why_fewer_processes(2, [Placement("", cores=(0, 1, 2))]) == ""
    assert "in 0 processes for each device, not 1" in pool_module.why_fewer_processes(
        1, [Placement("", cores=(0,))]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "phase", "words", "execution"),
    [
        ("cpu", Phase.PREFILL, "flex bf16", "eager"),
        pytest.param("cuda", Phase.PREFILL, "flex bf16", "eager", marks=pytest.mark.cuda),
        pytest.param("cuda", Phase.DECODE, "flex bf16 static", "compiled", marks=pytest.mark.cuda),
    ],
)
def test_what_a_helper_compiled_is_not_compiled_again(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kind: DeviceKind,
    phase: Phase,
    words: str,
    execution: str,
) -> None:
    def kept(*patterns: str) -> set[Path]:
        return {path for pattern in patterns for path in tmp_path.rglob(pattern) if path.is_file()}

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    queue = CompileQueue()
    pool = PrecompilePool(queue, 1, seed=0, device=kind, deadline_s=300)
    bench = DeviceBench(Limits(sampling_s=0.1), seed=0, device=kind, precompile=pool)
    # Large enough where it is compiled for Inductor to time several launches of its kernels.
    large = execution == "compiled"
    seq_len, q_heads, head_dim = (2048, 16, 128) if large else (200, 2, 32)
    workload = Workload(phase=phase, batch=1, seq_len=seq_len, q_heads=q_heads, head_dim=head_dim)
    of = configured(workload, words, execution=execution)
    try:
        queue.wish([of])
        pool.ready()
        assert soon(lambda: queue.compiled_in(of)) or soon(lambda: queue.compiled_in(of))
        objects, graphs = ("*.so", "*.cubin"), ("fxgraph/**/*", "aotautograd/**/*")
        before = kept(*objects), kept(*graphs)
        assert all(before)
        assert not kept("*.best_config")
        assert bench.evaluate(of).outcome is Outcome.MEASURED
        assert (kept(*objects), kept(*graphs)) == before
        assert bool(kept("*.best_config")) == large  # of who measured
        assert queue.stats.met == 1
    finally:
        bench.close()


def printed_by(code: str) -> str:
    """Run code in a process of its own, whose settings are those of no other test."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


PRECOMPILER_HERE = """
    from objectives.precompile.compiler import Precompiler
    Precompiler({"plugins": [], "device": "cpu", "seed": 0, "processes": 1})
"""
EVALUATOR_HERE = """
    from objectives.trial.evaluator import Evaluator
    from objectives.schema.limits import Limits
    from variants.detect import detect_device
    Evaluator(detect_device("cpu", {}), Limits(), 0)
"""


@pytest.mark.parametrize("here", [PRECOMPILER_HERE, EVALUATOR_HERE], ids=["helper", "evaluator"])
def test_who_compiles_has_the_precision_that_a_reference_leaves(here: str) -> None:
    said = "\n    import torch; print(torch.backends.cuda.matmul.fp32_precision)\n"
    applied = """
    from variants.precisions import PRECISIONS
    with PRECISIONS["fp32"].applied():
        pass
    """
    assert printed_by(here + said) == printed_by(applied + said) != printed_by(said)


def test_a_helper_times_no_launches_of_a_kernel_and_keeps_all() -> None:
    launched = """
    from torch._inductor.runtime.triton_heuristics import CachingAutotuner

    kernel = CachingAutotuner.__new__(CachingAutotuner)
    kernel.compile_results = kernel.launchers = ["first", "second"]
    kernel.autotune_to_one_config()
    print(kernel.launchers, kernel.compile_results)
    """
    assert printed_by(PRECOMPILER_HERE + launched) == "['first'] ['first', 'second']"
