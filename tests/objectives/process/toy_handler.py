"""Toy jobs for the worker: each does one thing that a trial could do to its process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from objectives.process.messages import Message


class ToyHandler:
    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._sick = False

    def work(self, job: Message) -> Message:
        self._report(f"doing {job['do']}")
        result = getattr(self, job["do"])(job)
        return {"pid": os.getpid(), "value": result}

    def usable(self) -> bool:
        return not self._sick

    def echo(self, job: Message) -> object:
        return job["value"]

    def fail(self, job: Message) -> None:
        raise ValueError(job["text"])

    def fail_sticky(self, job: Message) -> None:
        self._sick = True
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def sleep(self, job: Message) -> None:
        time.sleep(job["seconds"])

    def ignore_sigterm_and_sleep(self, job: Message) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)

    def spawn_and_hang(self, job: Message) -> None:
        command = [sys.executable, "-c", "import time; time.sleep(60)"]
        child = subprocess.Popen(command, start_new_session=True)
        self._report(f"child {child.pid}")
        time.sleep(60)

    def die_by_signal(self, job: Message) -> None:
        os.kill(os.getpid(), job["signal"])
        time.sleep(10)

    def spawn_daemon(self, job: Message) -> int:
        """Leave a process behind that no one here is the parent of."""
        child = "import os, time; os.fork() and os._exit(0); os.setsid(); "
        child += "print(os.getpid(), flush=True); time.sleep(60)"
        done = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE)
        assert done.stdout is not None
        return int(done.stdout.readline())

    def exit(self, job: Message) -> None:
        print("the last words", flush=True)
        os._exit(3)

    def print_garbage(self, job: Message) -> str:
        os.write(1, b"\xff\x00{]}" * 10_000)
        os.write(2, b'{"result": {"value": "a lie"}}\n' * 100)
        return "truth"

    def flood(self, job: Message) -> str:
        for _ in range(500):
            os.write(1, b"x" * 2**16 + b"\n")
        return "truth"

    def flood_stages(self, job: Message) -> None:
        while True:
            self._report("again")

    def send_raw(self, job: Message) -> None:
        """Write to the socket what is no message, and hang."""
        connection = self._report.__closure__[0].cell_contents.__closure__[0].cell_contents
        connection.sendall(job["text"].encode() * job.get("times", 1))
        time.sleep(60)

    def unprintable(self, job: Message) -> None:
        class Unprintable(Exception):
            def __init__(self, stream: object, lock: object) -> None:
                self.held = (stream, lock)  # what no pickle takes

            def __str__(self) -> str:
                raise TypeError("no text")

        raise Unprintable(sys.stdout, lambda: None)

    def surrogate(self, job: Message) -> None:
        raise ValueError("half a pair: \ud800, and \x1b[31mred")

    def no_json(self, job: Message) -> object:
        return {1, 2}

    def stages(self, job: Message) -> str:
        for stage, seconds in job["stages"]:
            self._report(stage)
            time.sleep(seconds)
        return "done"

    def killed_for_memory(self, job: Message) -> None:
        """What it looks like when the kernel ends this process."""
        with open(job["counters"], "w") as file:
            file.write("oom_kill 8\n")
        os.kill(os.getpid(), signal.SIGKILL)

    def killing_order(self, job: Message) -> str:
        with open("/proc/self/oom_score_adj") as file:
            return file.read()

    def open_sockets(self, job: Message) -> int:
        """How many sockets a program that is started here inherits."""
        code = "import os; print(sum('socket' in os.readlink(f'/proc/self/fd/{n}') "
        code += "for n in os.listdir('/proc/self/fd') if os.path.lexists(f'/proc/self/fd/{n}')))"
        command = [sys.executable, "-c", code]
        return int(subprocess.run(command, stdout=subprocess.PIPE, close_fds=False).stdout)


def start_handler(options: Message, report: Callable[[str], None]) -> tuple[Message, ToyHandler]:
    if options.get("refuse_to_start"):
        raise RuntimeError("cannot start")
    if "starts" in options:  # a file that counts them; some fail
        with open(options["starts"], "a") as file:
            file.write("x")
        if os.path.getsize(options["starts"]) in options["failing"]:
            raise RuntimeError("device busy")
    return {"hello": options}, ToyHandler(report)
