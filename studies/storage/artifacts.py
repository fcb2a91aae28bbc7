"""Files that belong to a study, in Optuna's artifact store beside its database."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from objectives.schema.errors import first_error
from studies.storage.optuna_internals import stored_system_attributes
from studies.storage.url import database_url

_PREFIX = "artifacts:"  # of the attributes in which Optuna lists them


class Artifact(BaseModel):
    """What Optuna stores about a file of a study."""

    artifact_id: Annotated[str, Field(pattern=r"^[0-9a-fA-F-]+$")]  # its name in the store
    filename: str
    mimetype: str
    encoding: str | None


_ARTIFACT = TypeAdapter(Artifact | None)


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


def attach_file(
    study: optuna.Study, store: FileSystemArtifactStore, name: str, content: bytes, mimetype: str
) -> None:
    """Attach a file to a study; one of the same name is replaced.

    Raises:
        OSError: It cannot be stored.
        ValueError: An artifact of the study is not as Optuna writes it.
    """
    attributes = stored_system_attributes(study)
    for known in artifacts_of(attributes):
        if known.filename == name:
            store.write(known.artifact_id, io.BytesIO(content))
            return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        upload_artifact(
            artifact_store=store, file_path=str(path), study_or_trial=study, mimetype=mimetype
        )


def artifacts_of(attributes: Mapping[str, Any]) -> list[Artifact]:
    """Return the artifacts among a study's system attributes.

    Raises:
        ValueError: One is not as Optuna writes it.
    """
    # Optuna's own listing fails on one that was deleted in the dashboard: it is null there.
    found = (_read(key, text) for key, text in attributes.items() if key.startswith(_PREFIX))
    return [artifact for artifact in found if artifact is not None]


def _read(key: str, text: object) -> Artifact | None:
    try:
        artifact = _ARTIFACT.validate_json(str(text))
    except ValidationError as error:
        raise ValueError(f"{key}: {first_error(error)}") from None
    if artifact is not None and artifact.artifact_id != key.removeprefix(_PREFIX):
        raise ValueError(f"{key}: artifact_id must be that of its key, got {artifact.artifact_id}")
    return artifact
