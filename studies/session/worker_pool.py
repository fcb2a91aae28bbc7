"""The workers of a session, each in a thread, under one who listens.

A worker waits until what it found has been heard: with one worker, nothing of ours runs on the
host while it measures.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from objectives.trial.bench import Bench

Found = TypeVar("Found")


@dataclass(eq=False)
class Worker:
    """A bench at work in a session, and where it measures."""

    bench: Bench
    name: str  # of the device on this host, as `cuda:1`
    label: str = field(init=False)  # among all hosts
    since_anchor: int | None = None  # trials since the anchor was measured in this run

    def __post_init__(self) -> None:
        self.label = f"{socket.gethostname()} {self.name}"


class _Over:
    """Said last by a thread: its work is over."""


class WorkerPool(Generic[Found]):
    """Runs `work(worker)` for each worker; iterating over it yields what they find, as it comes.

    Nothing begins before the iteration does.
    """

    def __init__(
        self, workers: Sequence[Worker], work: Callable[[Worker], Iterator[Found]]
    ) -> None:
        self._workers, self._work = workers, work
        self._heard: queue.SimpleQueue[tuple[Worker, Found | BaseException | _Over]]
        self._heard = queue.SimpleQueue()
        self._go_on = {id(worker): threading.Semaphore(0) for worker in workers}
        self._over = False

    def __iter__(self) -> Iterator[tuple[Worker, Found | Exception]]:
        """Yield each worker with what it found; an exception ends its work.

        When the iteration is left early, what is being measured is ended.
        """
        threads = [
            threading.Thread(target=self._run, args=(worker,), name=worker.label, daemon=True)
            for worker in self._workers
        ]
        for thread in threads:
            thread.start()
        at_work = len(threads)
        try:
            while at_work:
                worker, found = self._heard.get()
                if isinstance(found, _Over):
                    at_work -= 1
                elif isinstance(found, BaseException) and not isinstance(found, Exception):
                    raise found
                else:
                    yield worker, found
                self._go_on[id(worker)].release()
        finally:
            self._over = True
            if at_work:
                for worker in self._workers:
                    worker.bench.interrupt()
                    self._go_on[id(worker)].release()
            for thread in threads:
                thread.join()

    def _run(self, worker: Worker) -> None:
        try:
            for found in self._work(worker):
                if not self._say(worker, found):
                    return
        except BaseException as error:  # whoever listens decides
            self._say(worker, error)
        finally:
            self._heard.put((worker, _Over()))

    def _say(self, worker: Worker, found: Found | BaseException) -> bool:
        """Wait until it is heard. Tells whether to go on."""
        self._heard.put((worker, found))
        self._go_on[id(worker)].acquire()
        return not self._over
