"""Posts at work at once: all is heard, one that fails ends alone, leaving early ends all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import cast

import pytest

from objectives.trial.bench import Bench
from studies.session.worker_pool import Crew, Post


class Interruptible:
    """A bench that only knows of its interruption."""

    def __init__(self) -> None:
        """Nothing has happened yet."""
        self.interrupted = threading.Event()

    def interrupt(self) -> None:
        """End what is being measured."""
        self.interrupted.set()


def posts(count: int) -> list[Post]:
    """Give posts without devices."""
    return [Post(cast(Bench, Interruptible()), name=f"post{i}") for i in range(count)]


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.timeout(30)
def test_everything_that_posts_find_is_heard_even_nothing(count: int) -> None:
    crew = posts(count)

    def work(post: Post) -> Iterator[int | None]:
        yield None
        yield crew.index(post)
        yield None

    heard = [(post.name, found) for post, found in Crew(crew, work)]
    assert sorted(heard, key=str) == sorted(
        [(f"post{i}", found) for i in range(count) for found in (None, i, None)], key=str
    )


@pytest.mark.timeout(30)
def test_one_that_fails_ends_alone() -> None:
    good, bad = crew = posts(2)

    def work(post: Post) -> Iterator[int]:
        yield 1
        if post is bad:
            raise ValueError("broken")
        yield 2

    heard = list(Crew(crew, work))
    assert [found for post, found in heard if post is good] == [1, 2]
    assert [str(found) for post, found in heard if post is bad] == ["1", "broken"]


@pytest.mark.timeout(30)
def test_what_is_no_error_reaches_whoever_listens_and_interrupts_the_others() -> None:
    first, second = crew = posts(2)

    def work(post: Post) -> Iterator[int]:
        if post is first:
            raise KeyboardInterrupt
        yield 1
        assert cast(Interruptible, post.bench).interrupted.wait(20)
        yield 2

    with pytest.raises(KeyboardInterrupt):
        list(Crew(crew, work))
    assert cast(Interruptible, second.bench).interrupted.is_set()


@pytest.mark.timeout(30)
def test_leaving_early_ends_what_is_being_measured() -> None:
    crew = posts(3)
    ended: list[str] = []

    def work(post: Post) -> Iterator[int]:
        try:
            yield 1
            assert cast(Interruptible, post.bench).interrupted.wait(20)
            yield 2
            yield 3
        finally:
            ended.append(post.name)

    for _ in Crew(crew, work):
        break
    assert sorted(ended) == ["post0", "post1", "post2"]


@pytest.mark.timeout(30)
def test_a_post_waits_until_what_it_found_has_been_heard() -> None:
    crew = posts(1)
    found = 0

    def work(post: Post) -> Iterator[int]:
        nonlocal found
        for found in range(1, 4):  # noqa: UP028 - what is found is looked at
            yield found

    for _, heard in Crew(crew, work):
        assert heard == found
