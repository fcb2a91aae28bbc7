"""Files that belong to a study, in Optuna's artifact store beside its database."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact

from studies.database_url import database_url

_PREFIX = "artifacts:"  # of the attributes in which Optuna lists them


def artifact_folder(storage_url: str) -> Path:
    """Return where a storage's artifacts lie: `study.db.artifacts` beside `study.db`.

    A server's lie in the working directory: who works on a study from several hosts reads reports
    and traces where they were written, or in a folder that the hosts share.
    """
    url = database_url(storage_url)
    if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
        return Path(f"{url.database}.artifacts")
    return Path("goldilocks.artifacts")


def artifact_store(storage_url: str) -> FileSystemArtifactStore:
    """Return the store of a storage, its folder made.

    Raises:
        OSError: The folder cannot be made.
    """
    folder = artifact_folder(storage_url)
    folder.mkdir(parents=True, exist_ok=True)
    return FileSystemArtifactStore(folder)


def attach(
    study: optuna.Study, store: FileSystemArtifactStore, name: str, content: bytes, mimetype: str
) -> None:
    """Attach a file to a study; one of the same name is replaced.

    Raises:
        OSError: It cannot be stored.
    """
    known = _artifact_id(study, name)
    if known is not None:
        store.write(known, io.BytesIO(content))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        upload_artifact(
            artifact_store=store, file_path=str(path), study_or_trial=study, mimetype=mimetype
        )


def _artifact_id(study: optuna.Study, name: str) -> str | None:
    attributes = study._storage.get_study_system_attrs(study._study_id)
    for key, text in attributes.items():
        # Optuna's own listing fails on one that was deleted in the dashboard: it is null there.
        described = json.loads(text) if key.startswith(_PREFIX) else None
        if described is not None and described["filename"] == name:
            return str(described["artifact_id"])
    return None
