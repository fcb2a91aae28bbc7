"""Several posts at work at once, each in a thread, under one who listens.

A post waits until what it found has been heard: with one post, nothing of ours runs on the host
while it measures.
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
class Post:
    """A bench at work in a session, and where it measures."""

    bench: Bench
    name: str  # of the device on this host, as `cuda:1`
    label: str = field(init=False)  # among all hosts
    since_anchor: int | None = None  # trials since the anchor was measured in this run

    def __post_init__(self) -> None:
        self.label = f"{socket.gethostname()} {self.name}"


class _Over:
    """Said last by a thread: its work is over."""


class Crew(Generic[Found]):
    """Runs `work(post)` for each post; iterate over it to hear what they yield, post by post."""

    def __init__(self, posts: Sequence[Post], work: Callable[[Post], Iterator[Found]]) -> None:
        """Nothing begins before the iteration does."""
        self._posts, self._work = posts, work
        self._heard: queue.SimpleQueue[tuple[Post, Found | BaseException | _Over]]
        self._heard = queue.SimpleQueue()
        self._go_on = {id(post): threading.Semaphore(0) for post in posts}
        self._over = False

    def __iter__(self) -> Iterator[tuple[Post, Found | Exception]]:
        """Yield each post with what it found; an exception ends its post's work.

        When the iteration is left early, what is being measured is ended.
        """
        threads = [
            threading.Thread(target=self._run, args=(post,), name=post.label, daemon=True)
            for post in self._posts
        ]
        for thread in threads:
            thread.start()
        working = len(threads)
        try:
            while working:
                post, found = self._heard.get()
                if isinstance(found, _Over):
                    working -= 1
                elif isinstance(found, BaseException) and not isinstance(found, Exception):
                    raise found
                else:
                    yield post, found
                self._go_on[id(post)].release()
        finally:
            self._over = True
            if working:
                for post in self._posts:
                    post.bench.interrupt()
                    self._go_on[id(post)].release()
            for thread in threads:
                thread.join()

    def _run(self, post: Post) -> None:
        try:
            for found in self._work(post):
                if not self._say(post, found):
                    return
        except BaseException as error:  # whoever listens decides
            self._say(post, error)
        finally:
            self._heard.put((post, _Over()))

    def _say(self, post: Post, found: Found | BaseException) -> bool:
        """Wait until it is heard. Tells whether to go on."""
        self._heard.put((post, found))
        self._go_on[id(post)].acquire()
        return not self._over
