"""optuna-dashboard on a storage."""

from __future__ import annotations

import socket
from collections.abc import Callable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
from optuna.artifacts import FileSystemArtifactStore
from optuna.storages import BaseStorage

from studies.dashboard.best_trials import separate_workloads
from studies.storage.optuna_internals import study_id_of


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

    separate_workloads()
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


def address(host: str, port: int, study: optuna.Study) -> str:
    """Return the address of a study's note, where its page begins."""
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else host
    return f"http://{shown}:{port}/dashboard/studies/{study_id_of(study)}/note"
