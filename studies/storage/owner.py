"""Who measures a running trial, and whether they still live.

A process is known by its id and by when it started, in clock ticks since the machine did: a wall
clock that is set back or forth changes neither.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError


class Owner(BaseModel):
    """A process, also after its id is used again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str
    boot: str  # the kernel's id of this run of the machine
    pid: int
    started_ticks: int


def this_process() -> Owner:
    """Return the running process."""
    pid = os.getpid()
    ticks = _started_ticks(pid)
    assert ticks is not None
    return Owner(host=socket.gethostname(), boot=_boot(), pid=pid, started_ticks=ticks)


def is_dead(stored: object) -> bool:
    """Tell whether a stored owner has ended. One on another machine cannot be asked."""
    owner = _read(stored)
    if owner is None:
        return True  # nobody who is at work wrote this
    if owner.host != socket.gethostname():
        return False
    return owner.boot != _boot() or _started_ticks(owner.pid) != owner.started_ticks


def host_elsewhere(stored: object) -> str | None:
    """Return the host of a stored owner, if it is another one."""
    owner = _read(stored)
    return None if owner is None or owner.host == socket.gethostname() else owner.host


def _read(stored: object) -> Owner | None:
    try:
        return Owner.model_validate(stored)
    except ValidationError:
        return None


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _started_ticks(pid: int) -> int | None:
    """Return the field `starttime` of proc(5), or None where there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])
