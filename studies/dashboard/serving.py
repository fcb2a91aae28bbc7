"""optuna-dashboard on a storage."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna.artifacts import FileSystemArtifactStore
from optuna.storages import BaseStorage

_NOTE_VERSION, _NOTE_PART = "dashboard:note_ver", "dashboard:note_str:"


def check_note(attributes: Mapping[str, Any]) -> None:
    """Check the note among a study's system attributes: a version, and texts numbered from 0.

    Raises:
        ValueError: It is not as optuna-dashboard writes it.
    """
    version = attributes.get(_NOTE_VERSION, 0)
    if type(version) is not int:
        raise ValueError(f"{_NOTE_VERSION}: must be a whole number, got {version!r}")
    parts = {key: text for key, text in attributes.items() if key.startswith(_NOTE_PART)}
    for key in (f"{_NOTE_PART}{number}" for number in range(len(parts))):
        if not isinstance(parts.get(key), str):
            raise ValueError(f"{key}: must be a text, got {parts.get(key)!r}")


class _QuietHandler(WSGIRequestHandler):
    """Answers without a line on the terminal for each request: the page polls every 2 s."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _Server(ThreadingMixIn, WSGIServer):
    """Answers each connection in a thread: browsers open some that they never use."""

    daemon_threads = True


def application(storage: BaseStorage, store: FileSystemArtifactStore) -> Callable[..., Any]:
    """Return the dashboard as a WSGI application."""
    from optuna_dashboard import wsgi  # takes seconds to import

    made: Callable[..., Any] = wsgi(storage, artifact_store=store)
    return made


def serve(storage: BaseStorage, store: FileSystemArtifactStore, host: str, port: int) -> None:
    """Serve the dashboard until interrupted.

    Raises:
        OSError: The address cannot be listened on.
    """
    with make_server(
        host,
        port,
        application(storage, store),
        server_class=_Server,
        handler_class=_QuietHandler,
    ) as server:
        server.serve_forever()


def address(host: str, port: int, study_id: int) -> str:
    """Return the address of a study's note, where its page begins."""
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else host
    return f"http://{shown}:{port}/dashboard/studies/{study_id}/note"
