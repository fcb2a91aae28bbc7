"""The real station, but a configuration of batch 13 trips a device-side assert."""

from __future__ import annotations

from collections.abc import Callable

import torch

from objectives.process.messages import Message
from objectives.trial import trial_handler as station


class BrokenStation(station.DeviceStation):
    def work(self, job: Message) -> Message:
        if job["configuration"]["workload"]["batch"] == 13:
            index = torch.full((1,), 7, device="cuda")
            torch.zeros(2, device="cuda")[index].sum().item()
        return super().work(job)


def attach(
    options: Message, report: Callable[[str], None]
) -> tuple[Message, station.DeviceStation]:
    greeting, whole = station.attach(options, report)
    whole.__class__ = BrokenStation
    return greeting, whole
