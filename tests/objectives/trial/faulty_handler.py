"""A job handler that measures nothing, and does to its process whatever its configuration is due.

Imports the standard library alone, so that a run can lose a hundred processes in a test.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

from objectives.process.messages import Message

ENVIRONMENT = "FAULTY_ENVIRONMENT"  # the variable that holds the greeting's environment
LOG = "FAULTY_LOG"  # the variable that may name a file: faults then come in turn, and are noted
FAULTS_FROM, RARE_FROM = 0.65, 0.98  # shares of configurations, by the hash of their key


class FaultyHandler:
    def __init__(self, report: Callable[[str], None]) -> None:
        self._report, self._jobs, self._sick = report, 0, False

    def usable(self) -> bool:
        return not self._sick

    def work(self, job: Message) -> Message:
        self._jobs += 1
        self._report("build")
        fault = next_fault if LOG in os.environ else fault_of
        name = fault(job["configuration"])
        result: Message | None = None
        if name is not None:
            result = getattr(self, name)(job["configuration"])
        self._report("latency")
        return result or measured(job["configuration"])

    def killed(self, of: Message) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    def segfault(self, of: Message) -> None:
        ctypes.string_at(0)

    def aborts(self, of: Message) -> None:
        os.abort()

    def exits(self, of: Message) -> None:
        os._exit(7)

    def raises(self, of: Message) -> None:
        raise LookupError("no such kernel [/bold]")

    def raises_what_no_pickle_takes(self, of: Message) -> None:
        class Unpicklable(Exception):
            def __init__(self) -> None:
                self.lock = lambda: sys.stdout

            def __str__(self) -> str:
                raise TypeError

        raise Unpicklable

    def sticky_error(self, of: Message) -> None:
        self._sick = True
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with")

    def host_memory(self, of: Message) -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (2**28, resource.RLIM_INFINITY))
        self._sick = True
        bytearray(2**33)

    def device_memory(self, of: Message) -> Message:
        return failed(of, "OUT_OF_MEMORY", "CUDA out of memory. Tried to allocate 64.00 GiB")

    def memory_of_earlier_trials(self, of: Message) -> Message:
        """Out of memory, unless the process is new."""
        return measured(of) if self._jobs == 1 else self.device_memory(of)

    def refused(self, of: Message) -> Message:
        return failed(of, "REFUSED", "\x1b[31mNo available kernel\n\n")

    def prints_garbage(self, of: Message) -> None:
        os.write(1, b"\xff\x00{]}\n" * 10_000)
        os.write(2, json.dumps({"result": failed(of, "REFUSED", "a lie")}).encode() + b"\n")

    def sends_garbage(self, of: Message) -> None:
        self._connection.sendall(b"\x80\x04\x95pickle\n")
        time.sleep(60)

    def answers_nonsense(self, of: Message) -> Message:
        return {"configuration": of, "outcome": "FINE"}

    def answers_for_another(self, of: Message) -> Message:
        return measured(of | {"workload": of["workload"] | {"layers": 2}})

    def measures_nan(self, of: Message) -> Message:
        return measured(of, latency_ms=float("nan"))

    def infinite_error(self, of: Message) -> Message:
        result = measured(of)
        result["measurements"]["relative_error"] = "Infinity"
        return result | {"outcome": "INACCURATE", "reason": "relative error inf is above 0.01"}

    def full_disk(self, of: Message) -> None:
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x")

    def leaves_a_daemon(self, of: Message) -> None:
        code = "import os, time; os.fork() and os._exit(0); os.setsid(); time.sleep(600)"
        subprocess.run([sys.executable, "-c", code], check=True)

    def hangs_in_compile(self, of: Message) -> None:
        self._report("first step")
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        subprocess.Popen(command, start_new_session=True)
        time.sleep(600)

    def hangs_in_measure(self, of: Message) -> None:
        """Holds the interpreter, as a driver call does, and hears no signal."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._report("latency")
        ctypes.PyDLL(None).sleep(600)

    def stopped(self, of: Message) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    @property
    def _connection(self) -> object:
        send = self._report.__closure__[0].cell_contents
        return send.__closure__[0].cell_contents


# Each fault's outcome, and what its reason must say.
FAULTS: Mapping[str, tuple[str, str]] = {
    "killed": ("CRASHED", r"in stage 'build' \(SIGKILL\)"),
    "segfault": ("CRASHED", r"\(SIGSEGV\)"),
    "aborts": ("CRASHED", r"\(SIGABRT\)"),
    "exits": ("CRASHED", r"\(exit status 7\)"),
    "raises": ("CRASHED", r"LookupError: no such kernel \[/bold\]"),
    "raises_what_no_pickle_takes": ("CRASHED", r"Unpicklable: \(it cannot be printed\)"),
    "sticky_error": ("CRASHED", r"^RuntimeError: CUDA error: .* was encountered$"),
    "host_memory": ("OUT_OF_MEMORY", r"MemoryError"),
    "device_memory": ("OUT_OF_MEMORY", r"Tried to allocate 64\.00 GiB"),
    "memory_of_earlier_trials": ("MEASURED", r"^$"),
    "refused": ("REFUSED", r"^\[31mNo available kernel$"),
    "prints_garbage": ("MEASURED", r"^$"),
    "sends_garbage": ("CRASHED", r"sent what is no message"),
    "answers_nonsense": ("CRASHED", r"answered with no evaluation"),
    "answers_for_another": ("CRASHED", r"no evaluation: of .*/l2/"),
    "measures_nan": ("CRASHED", r"no evaluation: .*latency_ms: Input should be less than"),
    "infinite_error": ("INACCURATE", r"relative error inf"),
    "full_disk": ("CRASHED", r"OSError: \[Errno 28\]"),
    "leaves_a_daemon": ("MEASURED", r"^$"),
}
RARE = {
    "hangs_in_compile": ("TIMED_OUT", r"in stage 'first step'"),
    "hangs_in_measure": ("TIMED_OUT", r"in stage 'latency'"),
    "stopped": ("TIMED_OUT", r"in stage 'build'"),
}

IN_TURN = (*FAULTS, *RARE, *FAULTS, *FAULTS)


def fault_of(configuration: Message) -> str | None:
    """Return the fault that a configuration is due; most and the defaults are due none."""
    if configuration["variant"]["backend"] == "auto":
        return None
    key = json.dumps(configuration, sort_keys=True).encode()
    number = int.from_bytes(hashlib.blake2b(key, digest_size=6).digest(), "big")
    share = number % 10_000 / 10_000
    if share < FAULTS_FROM:
        return None
    names = list(FAULTS if share < RARE_FROM else RARE)
    return names[number // 10_000 % len(names)]


def next_fault(configuration: Message) -> str | None:
    """Return the fault of a configuration by when it was first asked for, and note that it is due.

    The first one (the anchor) and the defaults are due none, and every third from then on one of
    `IN_TURN`. One that is asked for again, as the anchor, is due the same again.
    """
    if configuration["variant"]["backend"] == "auto":
        return None
    key = json.dumps(configuration, sort_keys=True)
    before = dict(noted())
    turn, due = divmod(len(before), 3)
    name = IN_TURN[turn] if due == 2 and turn < len(IN_TURN) else None
    name = before.get(key, name)
    with open(os.environ[LOG], "a") as file:
        file.write(json.dumps([key, name]) + "\n")
    return name


def noted() -> list[tuple[str, str | None]]:
    """Return each configuration that was asked for, as JSON, with its fault, in order."""
    try:
        with open(os.environ[LOG]) as file:
            return [(key, name) for key, name in map(json.loads, file)]
    except FileNotFoundError:
        return []


def failed(configuration: Message, outcome: str, reason: str) -> Message:
    return {"configuration": configuration, "outcome": outcome, "reason": reason}


def measured(configuration: Message, latency_ms: float = 1.0) -> Message:
    samples = {"quantile": 0.5, "low": 1.0, "high": 1.0, "iqr": 0.0, "count": 20}
    samples |= {"value": latency_ms, "stopped": "precise"}
    latency = {"latency_ms": latency_ms, "low_ms": 1.0, "high_ms": 1.0, "bound": "host"}
    latency |= {"gpu": None, "held": None, "host": samples}
    latency |= {"first_step_ms": 1.0, "new_length_ms": None}
    memory = {"peak_mib": 2.0, "weights_mib": 1.0, "cache_mib": 0.0, "transient_mib": 1.0}
    memory |= {"reserved_mib": None, "workspace_mib": None}
    return {
        "configuration": configuration,
        "outcome": "MEASURED",
        "measurements": {
            "latency": latency,
            "memory": memory,
            "relative_error": 1e-3,
            "backend_ran": "math",
            "kernels": [],
        },
        "seconds": {"build": 0.001, "latency": 0.001},
    }


def start_handler(
    options: Message, report: Callable[[str], None]
) -> tuple[Message, FaultyHandler]:
    environment = json.loads(os.environ[ENVIRONMENT])
    if "failed_quantizations" in options:  # not tried again
        environment["device"]["failed_quantizations"] = options["failed_quantizations"]
    return {"environment": environment}, FaultyHandler(report)
