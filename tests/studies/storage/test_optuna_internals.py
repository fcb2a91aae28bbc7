"""Optuna's private names that `optuna_internals` uses, against the Optuna that is installed."""

from __future__ import annotations

import ast
import io
import tempfile
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.trial import TrialState

from studies.storage.artifacts import artifacts_of
from studies.storage.optuna_internals import (
    FIXED_PARAMS,
    BaseHeartbeat,
    FrozenStudy,
    engine_of,
    live_trial,
    set_system_attribute,
    stale_trial_ids,
    storage_of,
    stored_state,
    stored_system_attributes,
    stored_user_attributes,
    study_id_of,
    trial_id_of,
)

ROOT = Path(__file__).parents[3]
PACKAGES = ("variants", "objectives", "studies", "search", "benchmarks")
ADAPTER = ROOT / "studies" / "storage" / "optuna_internals.py"
# Attributes that Optuna's objects keep to themselves, as far as anybody was tempted.
PRIVATE = {"_storage", "_study_id", "_trial_id", "_backend", "_get_stale_trial_ids", "_server"}


@pytest.fixture
def second(storage: BaseStorage) -> optuna.Study:
    """A study whose trials are not numbered as their ids are."""
    optuna.create_study(storage=storage).ask()
    return optuna.create_study(storage=storage)


def test_studies_and_trials_have_ids_of_their_storage(
    second: optuna.Study, storage: BaseStorage
) -> None:
    assert storage_of(second) is storage
    assert study_id_of(second) == storage.get_study_id_from_name(second.study_name)
    frozen = storage.get_all_studies()
    assert all(isinstance(study, FrozenStudy) for study in frozen)
    assert [study_id_of(study) for study in frozen] == sorted(map(study_id_of, frozen))
    trial = second.ask()
    assert trial.number == 0
    assert trial_id_of(trial) == trial_id_of(second.get_trials()[0]) != trial.number
    assert storage.get_trial(trial_id_of(trial)).number == 0


def test_what_others_wrote_is_read_past_what_this_process_holds(
    second: optuna.Study, storage_url: str
) -> None:
    trial = second.ask()
    elsewhere = optuna.load_study(study_name=second.study_name, storage=storage_url)
    read = elsewhere.get_trials()[0]
    live_trial(elsewhere, read).set_user_attr("key", 1)
    assert second.get_trials()[0].user_attrs == {"key": 1}
    assert stored_state(second, trial) is TrialState.RUNNING
    elsewhere.tell(0, state=TrialState.FAIL)
    assert stored_state(second, trial) is TrialState.FAIL


def test_attributes_are_those_that_were_set(second: optuna.Study) -> None:
    second.set_user_attr("key", [1])
    assert stored_user_attributes(second) == {"key": [1]} == second.user_attrs
    second.set_metric_names(["one"])
    assert stored_system_attributes(second) == {"study:metric_names": ["one"]}
    second.ask()
    set_system_attribute(second, second.get_trials()[0], "key", 0.5)
    assert second.get_trials()[0].system_attrs == {"key": 0.5}


def test_enqueued_trials_hold_their_parameters(second: optuna.Study) -> None:
    second.enqueue_trial({"x": 1})
    assert second.get_trials()[0].system_attrs[FIXED_PARAMS] == {"x": 1}


def test_artifacts_are_listed_among_system_attributes(second: optuna.Study) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store, path = FileSystemArtifactStore(folder), Path(folder) / "a.txt"
        path.write_text("text")
        upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=second)
        (artifact,) = artifacts_of(stored_system_attributes(second))
        assert artifact.filename == "a.txt"
        store.write(artifact.artifact_id, io.BytesIO(b"other"))
        with store.open_reader(artifact.artifact_id) as reader:
            assert reader.read() == b"other"


@pytest.mark.filterwarnings("ignore:Heartbeat of storage is supposed:UserWarning")
def test_silence_beyond_the_grace_period_is_stale(tmp_path: Path) -> None:
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        storage = RDBStorage(
            f"sqlite:///{tmp_path / 'beating.db'}", heartbeat_interval=1, grace_period=60
        )
    assert isinstance(storage, BaseHeartbeat)
    study = optuna.create_study(storage=storage)
    silent, heard = (trial_id_of(study.ask()) for _ in range(2))
    beating = storage_of(study)
    assert isinstance(beating, BaseHeartbeat)
    assert beating.get_heartbeat_interval() == 1
    for trial_id in (silent, heard):
        beating.record_heartbeat(trial_id)
    assert stale_trial_ids(study, beating) == []
    with storage.engine.begin() as connection:
        connection.execute(
            sqlalchemy.text(
                "UPDATE trial_heartbeats SET heartbeat = datetime('now', '-61 seconds') "
                "WHERE trial_id = :silent"
            ),
            {"silent": silent},
        )
    assert stale_trial_ids(study, beating) == [silent]


def test_engine_is_found_behind_the_cache(storage: BaseStorage) -> None:
    engine = engine_of(storage)
    assert engine is not None
    assert engine.dialect.name == "sqlite"
    assert engine_of(InMemoryStorage()) is None


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_else_uses_private_names(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        if path == ADAPTER:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in PRIVATE:
                # An attribute of our own of the same name.
                own = isinstance(node.value, ast.Name) and node.value.id == "self"
                assert own or "optuna" not in path.read_text(encoding="utf-8"), (path, node.lineno)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("optuna"):
                names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                assert not [name for name in names if name.startswith("_")], (path, node.lineno)
