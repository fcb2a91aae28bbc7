"""What the dashboard shows of a study beside its trials: note, artifacts, updates of a run."""

from __future__ import annotations

import inspect
import json
import threading
import urllib.request
from pathlib import Path
from typing import Any
from wsgiref.simple_server import make_server

import optuna
import optuna_dashboard
import pytest
from optuna.artifacts import get_all_artifact_meta
from optuna.storages import BaseStorage
from optuna_dashboard import get_note, save_note

from studies.dashboard.note import END, summary_note
from studies.dashboard.publisher import Publisher, publish
from studies.dashboard.serving import _QuietHandler, application
from studies.results.labels import trial_name
from studies.results.results import read_results
from studies.results.summary import summary
from studies.sensitivity.evaluators import ANSWERS
from studies.storage.artifacts import artifact_folder, artifact_store, attach_file
from studies.storage.optuna_internals import storage_of, stored_system_attributes, study_id_of
from tests.studies.session.test_session import run, session


def test_note_tells_verdict_winners_and_command(storage: BaseStorage) -> None:
    of = session(storage)
    run(of, 12)
    publish(of.study)
    note = get_note(of.study)
    results = read_results(of.study)
    plain = note.replace("\\", "")
    assert summary(results) in plain
    assert "12 trials told so far: 12 MEASURED" in plain
    assert "python -m search run --trials 12 " in note
    for result in results.workloads:
        for winner in result.winners.values():
            number = winner.candidate.number
            assert f"| {trial_name(number)} |" in note


def test_note_says_what_the_dashboards_own_parts_answer(storage: BaseStorage) -> None:
    """Optuna's importances and best trials stand beside ours, and are of other questions."""
    several = session(storage, name="several")
    run(several, 3)
    note = summary_note(read_results(several.study))
    assert "**Best Trials** are those on each workload's own front" in note
    assert "**Pareto Front** always, take all workloads together" in note
    used = inspect.getsource(optuna_dashboard._importance.get_param_importance_from_trials_cache)
    assert "PedAnovaImportanceEvaluator" in used
    assert f"**Hyperparameter Importance** is PED-ANOVA: {ANSWERS['PED-ANOVA']}" in note
    one = session(
        storage, axes={"batch": (1,), "seq_len": (512,), "score_mod": ("none",)}, name="one"
    )
    run(one, 3)
    assert "Best Trials" not in summary_note(read_results(one.study))


def served(storage: BaseStorage, study: optuna.Study, folder: Path) -> dict[str, Any]:
    """What the dashboard's page asks for of a study."""
    app = application(storage, artifact_store(f"sqlite:///{folder}/x.db"))
    with make_server("127.0.0.1", 0, app, handler_class=_QuietHandler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        path = f"127.0.0.1:{server.server_port}/api/studies/{study_id_of(study)}"
        with urllib.request.urlopen(f"http://{path}") as response:
            page: dict[str, Any] = json.load(response)
        server.shutdown()
        thread.join()
    return page


def test_best_trials_are_each_workloads_own(storage: BaseStorage, tmp_path: Path) -> None:
    axes = {"batch": (1, 4), "seq_len": (512, 2048), "score_mod": ("none",)}
    of = session(storage, axes=axes, sampler="random")
    run(of, 24)
    for _ in range(2):  # made twice, it is the same
        page = served(storage, of.study, tmp_path)
    listed = {trial["number"] for trial in page["best_trials"]}
    values = {trial.number: tuple(trial.values) for trial in of.study.get_trials()}
    expected = set()
    for trials in read_results(of.study).trials_by_workload().values():
        its = {trial.number: values[trial.number] for trial in trials}
        expected |= {
            number
            for number, (memory, latency) in its.items()
            if not any(m <= memory and t <= latency for n, (m, t) in its.items() if n != number)
        }
    assert listed == expected
    assert len(listed) > len(of.study.best_trials)  # of which some workloads have none


def test_best_trials_of_a_study_of_somebody_elses_are_left_as_they_are(
    storage: BaseStorage, tmp_path: Path
) -> None:
    study = optuna.create_study(storage=storage, directions=["minimize", "minimize"])
    study.optimize(
        lambda trial: (trial.suggest_int("batch", 1, 8), trial.suggest_int("seq_len", 1, 8)), 8
    )
    page = served(storage, study, tmp_path)
    assert {trial["number"] for trial in page["best_trials"]} == {
        trial.number for trial in study.best_trials
    }


def test_what_a_user_writes_below_the_note_is_kept(storage: BaseStorage) -> None:
    of = session(storage)
    save_note(of.study, "mine, from before")
    run(of, 2)
    publish(of.study)
    assert get_note(of.study).endswith("mine, from before")
    save_note(of.study, get_note(of.study) + "\n\nand from after")
    run(of, 2)
    publish(of.study)
    note = get_note(of.study)
    assert note.endswith("mine, from before\n\nand from after")
    assert note.count(END) == 1
    assert "4 trials told so far" in note


def test_a_note_that_says_the_same_is_not_written_again(storage: BaseStorage) -> None:
    of = session(storage)
    run(of, 2)
    publish(of.study)
    version = stored_system_attributes(of.study)["dashboard:note_ver"]
    publish(of.study)
    again = stored_system_attributes(of.study)["dashboard:note_ver"]
    assert again == version


def test_a_running_study_is_published_at_once_and_then_rarely(
    storage: BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = session(storage)
    run(of, 1)
    now = [100.0]
    monkeypatch.setattr("studies.dashboard.publisher.time.monotonic", lambda: now[0])
    publisher = Publisher(of.study)
    publisher.refresh()
    assert "1 trials told" in get_note(of.study)
    of.trial()
    now[0] += 5
    publisher.refresh()
    assert "1 trials told" in get_note(of.study)
    now[0] += 20
    publisher.refresh()
    assert "2 trials told" in get_note(of.study)


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("sqlite:///a/b.db", "a/b.db.artifacts"),
        ("sqlite:////a/b.db", "/a/b.db.artifacts"),
        ("sqlite://", "goldilocks.artifacts"),
        ("postgresql://user:secret@host/name", "goldilocks.artifacts"),
    ],
)
def test_artifacts_lie_beside_their_database(url: str, folder: str) -> None:
    assert artifact_folder(url) == Path(folder)


def test_an_artifact_of_the_same_name_is_replaced(storage: BaseStorage, tmp_path: Path) -> None:
    of = session(storage)
    store = artifact_store(f"sqlite:///{tmp_path}/x.db")
    for content in (b"one", b"two"):
        attach_file(of.study, store, "report.html", content, "text/html")
    attach_file(of.study, store, "trace.json", b"{}", "application/json")
    found = {meta.filename: meta for meta in get_all_artifact_meta(of.study)}
    assert sorted(found) == ["report.html", "trace.json"]
    assert found["report.html"].mimetype == "text/html"
    with store.open_reader(found["report.html"].artifact_id) as file:
        assert file.read() == b"two"
    # One that was deleted in the dashboard leaves null behind; the next upload is a new one.
    key = f"artifacts:{found['report.html'].artifact_id}"
    storage_of(of.study).set_study_system_attr(study_id_of(of.study), key, json.dumps(None))
    attach_file(of.study, store, "report.html", b"three", "text/html")
    attributes = stored_system_attributes(of.study)
    names = [json.loads(v) for k, v in attributes.items() if k.startswith("artifacts:")]
    assert sorted(n["filename"] for n in names if n) == ["report.html", "trace.json"]
