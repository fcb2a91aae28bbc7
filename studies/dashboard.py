"""optuna-dashboard on a storage."""

from __future__ import annotations

import socket
from wsgiref.simple_server import WSGIRequestHandler, make_server

from optuna.storages import BaseStorage
from optuna_dashboard import wsgi


class _QuietHandler(WSGIRequestHandler):
    """Answers without a line on the terminal for each request: the page polls every 2 s."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def serve(storage: BaseStorage, host: str, port: int) -> None:
    """Serve the dashboard until interrupted.

    Raises:
        OSError: The address cannot be listened on.
    """
    with make_server(host, port, wsgi(storage), handler_class=_QuietHandler) as server:
        server.serve_forever()


def address(host: str, port: int, study_id: int) -> str:
    """Return the address of a study's page."""
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else host
    return f"http://{shown}:{port}/dashboard/studies/{study_id}"
