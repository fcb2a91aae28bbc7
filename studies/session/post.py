"""A post: one bench at work in a session."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from objectives.trial.bench import Bench


def _here(name: str) -> str:
    return f"{socket.gethostname()} {name}"


@dataclass(eq=False)
class Post:
    """A bench, and where it measures."""

    bench: Bench
    name: str  # of the device on this host, as `cuda:1`
    label: str = field(init=False)  # among all hosts
    since_anchor: int | None = None  # trials since the anchor was measured in this run

    def __post_init__(self) -> None:
        """Tell hosts apart."""
        self.label = _here(self.name)
