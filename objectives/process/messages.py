"""Messages between a parent and its measuring process: JSON objects, one a line.

Nothing is ever unpickled, and nothing that a library prints can be taken for a message: what is
printed has a pipe of its own. Reading never waits longer than it was told to, whatever part of a
message has arrived, and never holds more than a bounded number of bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import time
from typing import Any

Message = dict[str, Any]

MAX_MESSAGE_BYTES = 16 * 2**20
_CHUNK_BYTES = 2**16
_LAST_WORDS_BYTES = 4000  # of what was printed


class NoMessageError(ValueError):
    """What arrived is no message."""


def encode(message: Message) -> bytes:
    """Return a message as a line.

    Raises:
        TypeError, ValueError, RecursionError: It is not JSON.
    """
    return json.dumps(message).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Read a line.

    Raises:
        NoMessageError: It is no JSON object.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise NoMessageError("it sent what is no message")
    return message


class Inbox:
    """What a process sends, and the last of what it prints."""

    def __init__(self, connection: socket.socket, printed: int) -> None:
        """Read messages from `connection`, and what is printed from the pipe `printed`."""
        connection.setblocking(False)
        os.set_blocking(printed, False)
        self._connection, self._printed = connection, printed
        self._received, self._tail = bytearray(), b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(connection, selectors.EVENT_READ)
        self._selector.register(printed, selectors.EVENT_READ)

    def next(self, end: float) -> Message | None:
        """Return the next message, or None when none came until `time.monotonic()` is `end`.

        Raises:
            EOFError: The process hung up.
            NoMessageError: It sent something else.
        """
        searched = 0
        while (newline := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            if searched > MAX_MESSAGE_BYTES:
                raise NoMessageError("it sent a message without an end")
            left = end - time.monotonic()
            ready = {key.fileobj for key, _ in self._selector.select(max(0.0, left))}
            if self._printed in ready:
                self._read_printed()
            if self._connection in ready:
                self._receive()
            elif left <= 0:
                return None
        line = bytes(self._received[:newline])
        del self._received[: newline + 1]
        return decode(line)

    def _receive(self) -> None:
        try:
            chunk = self._connection.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            raise EOFError
        self._received += chunk

    def _read_printed(self) -> int:
        try:
            chunk = os.read(self._printed, _CHUNK_BYTES)
        except BlockingIOError:
            return 0
        if not chunk:
            self._selector.unregister(self._printed)
        self._tail = (self._tail + chunk)[-_LAST_WORDS_BYTES:]
        return len(chunk)

    def last_words(self) -> str:
        """Return the last line that was printed."""
        with contextlib.suppress(KeyError):  # it hung up this pipe, and has been read to its end
            self._selector.get_key(self._printed)
            # Bounded: what still prints would be listened to for ever.
            for _ in range(MAX_MESSAGE_BYTES // _CHUNK_BYTES):
                if not self._read_printed():
                    break
        # The profiler marks each of its uses with a line that says nothing here.
        lines = [
            line
            for line in self._tail.decode(errors="replace").splitlines()
            if line.strip() and "USDT:" not in line
        ]
        return lines[-1].strip()[:300] if lines else ""

    def close(self) -> None:
        """Hang up."""
        self._selector.close()
        self._connection.close()
        os.close(self._printed)
