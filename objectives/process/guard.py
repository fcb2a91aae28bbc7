"""The guard of a measuring process: whatever ends, nothing that it started stays behind.

A small process stands between the parent and the one that measures. It waits for either to end:
the parent hangs up its socket, or dies, however it dies, which hangs up as well. Then the guard
kills everything below it. The kernel hands it every orphan (PR_SET_CHILD_SUBREAPER), so that no
descendant escapes by starting a session of its own, or by outliving whoever started it.

A parent-death signal alone would reach the measuring process only, not the compilers that it runs,
and is sent when the *thread* that started the process ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import NoReturn

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_PAUSE_S = 0.005  # between looks at processes that are ending


def run_guarded(descriptor: int, work: Callable[[], int]) -> NoReturn:
    """Run `work` in a forked process; end with its status when it ends or the socket hangs up.

    Call it before any thread is started. `descriptor` is the socket to the parent.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    # If the guard itself is killed, what stands still below it is ended by the kernel's SIGHUP to
    # an orphaned group, which `nohup` would have it ignore.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    guard = os.getpid()
    child = os.fork()
    if child == 0:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:  # it died before the call
            os._exit(1)
        sys.exit(work())
    status = _wait(child, descriptor)
    os.close(descriptor)  # the parent may know at once
    _kill_descendants()
    _end_like(status)


def _wait(child: int, descriptor: int) -> int:
    """Return the wait status of the child, or 0 when the parent hung up first."""
    woken, wake = socket.socketpair()
    woken.setblocking(False)
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    poll = select.poll()
    poll.register(woken, select.POLLIN)
    poll.register(descriptor, 0)  # hanging up is reported unasked
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)  # adopted orphans end as well
        if pid == child:
            return status
        if pid:
            continue
        if any(ready == descriptor for ready, _ in poll.poll()):
            return 0
        with contextlib.suppress(BlockingIOError):
            woken.recv(4096)


def _kill_descendants() -> None:
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        import psutil  # here: no start of a measuring process waits for it

        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(_PAUSE_S)


def _end_like(status: int) -> NoReturn:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:  # which has no handler to be removed
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
