"""The real job handler, but a configuration of batch 13 trips a device-side assert."""

from __future__ import annotations

from collections.abc import Callable

import torch

from objectives.process.messages import Message
from objectives.trial import trial_handler


class BrokenHandler(trial_handler.TrialHandler):
    def work(self, job: Message) -> Message:
        if job["configuration"]["workload"]["batch"] == 13:
            index = torch.full((1,), 7, device="cuda")
            torch.zeros(2, device="cuda")[index].sum().item()
        return super().work(job)


def start_handler(
    options: Message, report: Callable[[str], None]
) -> tuple[Message, trial_handler.TrialHandler]:
    greeting, whole = trial_handler.start_handler(options, report)
    whole.__class__ = BrokenHandler
    return greeting, whole
