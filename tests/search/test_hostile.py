"""Hostile input to every loader: it is read, or refused in a line, and never a traceback."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.storages import InMemoryStorage

from objectives.roofline.bound import DATASHEET
from search.options.choices import UsageError, choices_from_toml
from search.verify_command import read_export
from studies.dashboard.publisher import publish
from studies.replay.table import TableError, read_table
from studies.results.results import as_table, read_results
from studies.sensitivity.assess import assess
from studies.space.space import SearchSpace, SpaceError
from studies.storage.optuna_internals import storage_of, study_id_of
from studies.study.attributes import ANCHORS, EVALUATION, FINALS, PEAKS, PROBES, StudyError
from studies.study.study import load_study, open_storage
from tests.fake_bench import FakeBench
from tests.studies.export.test_verification import exported
from tests.studies.session.test_session import run, session
from variants.axes import Choice

# A folder of a test serves all of its examples.
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
ONE = {"batch": (1,), "seq_len": (512,), "score_mod": ("none",)}
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -1, 0, 1e308, math.inf, math.nan, "", "\ud800", "NaN", "../../x"])
    | st.floats()
    | st.text(max_size=5)
)
ANYTHING = LEAVES | st.lists(LEAVES, max_size=2) | st.dictionaries(st.text(max_size=3), LEAVES)


def places(document: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to everything in a JSON document."""
    if path:
        yield path
    inner: Any = ()
    if isinstance(document, dict):
        inner = document.items()
    elif isinstance(document, list):
        inner = enumerate(document)
    for key, value in inner:
        yield from places(value, (*path, key))


def changed(document: Any, path: tuple[Any, ...], value: object) -> Any:
    """Return a copy with one thing replaced."""
    document = copy.deepcopy(document)
    where = document
    for key in path[:-1]:
        where = where[key]
    where[path[-1]] = value
    return document


def refused(read: Callable[[], object], *errors: type[Exception]) -> str | None:
    """Return the line with which something is refused; None where it is read."""
    try:
        read()
    except errors as error:
        return str(error)
    return None


def written(document: object) -> str:
    return json.dumps(document)  # NaN and Infinity as Python writes them


EXPORT = exported(finals=True).model_dump(mode="json")


@SHARED
@given(st.sampled_from(sorted(places(EXPORT), key=str)), ANYTHING)
@example(("schema_version",), 10**400)
def test_a_changed_export_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, path: tuple[Any, ...], value: object
) -> None:
    file = tmp_path_factory.getbasetemp() / "changed.json"
    try:
        file.write_text(written(changed(EXPORT, path, value)))
    except ValueError:  # a number of more digits than Python writes
        file.write_text("9" * 5000)
    said = refused(lambda: read_export(file), UsageError)
    assert said is None or str(file) in said


@SHARED
@given(st.integers(0, len(written(EXPORT))), st.binary(max_size=3))
def test_a_truncated_export_is_refused(
    tmp_path_factory: pytest.TempPathFactory, length: int, tail: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "truncated.json"
    file.write_bytes(written(EXPORT).encode()[:length] + tail)
    said = refused(lambda: read_export(file), UsageError)
    assert length == len(written(EXPORT)) if said is None else str(file) in said


TOML = st.text(max_size=40) | st.builds(
    lambda name, value: f"[axes]\n{name} = {value}\n",
    st.sampled_from(
        ["batch", "seq_len", "score_mod", "backend", "head_dim", "phase", '"\\u0000"']
    ),
    st.integers().map(str)
    | st.integers(0, 10**30).map(hex)
    | st.floats().map(str)
    | st.text(max_size=8).map(lambda text: json.dumps(text, ensure_ascii=False))
    | st.lists(st.integers(), max_size=3).map(str),
)


@SHARED
@given(TOML)
@example("[axes]\nbatch = " + "9" * 5000)
@example("[axes]\nbatch = 0x" + "f" * 6000)
@example("[axes]\nbatch = " + "[" * 5000)
@example("[axes]\nbatch = [[1]]")
@example("axes = 1")
def test_any_text_is_a_space_or_refused(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "space.toml"
    file.write_bytes(text.encode(errors="surrogatepass"))
    choices: dict[str, tuple[Choice, ...]] = {}
    said = refused(lambda: choices.update(choices_from_toml(file)), UsageError)
    assert said is None or "--space" in said
    refused(lambda: SearchSpace(axes=choices).workloads(), SpaceError)


@pytest.fixture(scope="module")
def table() -> list[list[str]]:
    axes = {"batch": (1, 4), "seq_len": (512,), "score_mod": ("none",), "precision": ("bf16",)}
    of = session(InMemoryStorage(), FakeBench(), axes=axes, sampler="sweep")
    run(of, 6)
    text = as_table(read_results(of.study)).to_csv(index=False)
    return [line.split(",") for line in text.splitlines()]


@SHARED
@given(st.data())
def test_a_changed_table_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, table: list[list[str]], data: st.DataObject
) -> None:
    rows = [list(row) for row in table]
    row = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.integers(0, len(rows[0]) - 1))
    rows[row][column] = data.draw(
        st.sampled_from(["", "nan", "inf", "-1", "0", "1e999", "9" * 5000, "x", '"', "\x00", "é"])
        | st.text(max_size=5)
    )
    file = tmp_path_factory.getbasetemp() / "table.csv"
    text = "\n".join(",".join(cells) for cells in rows)
    file.write_bytes(text.encode(errors="surrogatepass"))
    said = refused(lambda: read_table(file), TableError)
    assert said is None or str(file) in said


@pytest.mark.parametrize("number", ["inf", "nan", "0", "-1", "1e999", "1e308", "5e-324"])
@pytest.mark.parametrize("column", ["latency_ms", "peak_mib"])
def test_a_table_of_numbers_that_nobody_measured_is_refused(
    tmp_path: Path, table: list[list[str]], column: str, number: str
) -> None:
    changed_row = list(table[-1])
    changed_row[table[0].index(column)] = number
    file = tmp_path / "table.csv"
    file.write_text("\n".join(",".join(row) for row in (*table[:-1], changed_row)))
    with pytest.raises(TableError, match="positive and finite"):
        read_table(file)


@pytest.fixture(scope="module")
def study() -> optuna.Study:
    of = session(InMemoryStorage(), FakeBench(), axes=ONE)
    run(of, 6)
    of.calibration.measure_if_due()
    (result,) = read_results(of.study).workloads
    of.retiming.measure(result)
    return of.study


@SHARED
@given(st.data())
def test_what_somebody_else_wrote_into_a_study_is_read_or_refused(
    study: optuna.Study, data: st.DataObject
) -> None:
    attributes = study.user_attrs
    key = data.draw(st.sampled_from(sorted(k for k in attributes if k.startswith("goldilocks:"))))
    path = data.draw(st.sampled_from([(), *sorted(places(attributes[key]), key=str)]))
    value = data.draw(ANYTHING)
    study.set_user_attr(key, changed(attributes[key], path, value) if path else value)
    try:
        said = refused(
            lambda: read_results(load_study(storage_of(study), None)), StudyError, SpaceError
        )
        assert said is None or said
    finally:
        study.set_user_attr(key, attributes[key])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (ANCHORS, None),
        (ANCHORS, 7),
        (ANCHORS, [{}]),
        (PEAKS, math.nan),
        (PEAKS, {"fp32_tflops": ""}),
        (PEAKS, dataclasses.asdict(replace(DATASHEET["NVIDIA H100"], bandwidth_gb_s=0.0))),
        (PEAKS, dataclasses.asdict(replace(DATASHEET["NVIDIA H100"], launch_us=math.inf))),
        (PEAKS, dataclasses.asdict(replace(DATASHEET["NVIDIA H100"], yardstick_ms=1e15))),
        (FINALS, 7),
        (PROBES, [1]),
        (PROBES, -1),
    ],
)
def test_each_attribute_of_a_study_is_checked(
    study: optuna.Study, key: str, value: object
) -> None:
    if key == FINALS:
        key = next(k for k in study.user_attrs if k.startswith(FINALS))
    before = study.user_attrs.get(key, 0)
    study.set_user_attr(key, value)
    with pytest.raises(StudyError, match=re.escape(f"cannot be read: {key}: ")):
        load_study(storage_of(study), None)
    study.set_user_attr(key, before)


ARTIFACT = {"artifact_id": "a-1", "filename": "x", "mimetype": "text/html", "encoding": None}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("dashboard:note_ver", value) for value in (None, "1", [1], math.nan)),
        *(("dashboard:note_str:0", value) for value in (None, 1, [1], {})),
        ("dashboard:note_str:7", "the sixth is missing"),
        *(("artifacts:a-1", value) for value in (None, 7, [1], "", "{", "7", "[]", "{}")),
        *(("artifacts:a-1", json.dumps({**ARTIFACT, name: 7})) for name in ARTIFACT),
        ("artifacts:a-2", json.dumps(ARTIFACT)),
        *(
            (f"artifacts:{name}", json.dumps({**ARTIFACT, "artifact_id": name}))
            for name in ("../../x", "/x", ".", "", "\0", "\ud800")
        ),
    ],
)
def test_each_attribute_that_the_dashboard_shows_is_checked(key: str, value: object) -> None:
    of = session(InMemoryStorage(), FakeBench(), axes=ONE)
    store, study_id = storage_of(of.study), study_id_of(of.study)
    store.set_study_system_attr(study_id, "artifacts:a-1", json.dumps(ARTIFACT))
    store.set_study_system_attr(study_id, "artifacts:deleted", json.dumps(None))
    publish(of.study)
    load_study(store, None)
    store.set_study_system_attr(study_id, key, value)
    with pytest.raises(StudyError, match=r"cannot be read: (dashboard:note_|artifacts:).*: "):
        load_study(store, None)


@pytest.mark.parametrize(
    "distribution",
    [
        CategoricalDistribution(("a", "b")),
        CategoricalDistribution(("flash", "math", "eager")),
        FloatDistribution(0, 5),
        IntDistribution(0, 5),
    ],
    ids=str,
)
@pytest.mark.parametrize("running", [False, True])
def test_a_trial_of_other_choices_than_the_plan_has_is_refused(
    tmp_path: Path, distribution: BaseDistribution, running: bool
) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    run(session(open_storage(url), FakeBench(), axes=ONE), 2)
    written = distribution_to_json(distribution)
    with closing(sqlite3.connect(tmp_path / "study.db")) as database, database:
        database.execute(
            "UPDATE trial_params SET distribution_json = ?, param_value = 0 "
            "WHERE trial_id = 2 AND param_name = 'backend'",
            (written,),
        )
        if running:
            database.execute("UPDATE trials SET state = 'RUNNING' WHERE trial_id = 2")
    with pytest.raises(StudyError, match=r"trial 1: backend must be one of eager, .*; got one of"):
        load_study(open_storage(url), None)


@pytest.mark.parametrize("value", [99, "x", None, 1e999])
def test_a_parameter_that_is_no_choice_is_refused(tmp_path: Path, value: object) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    run(session(open_storage(url), FakeBench(), axes=ONE), 2)
    with closing(sqlite3.connect(tmp_path / "study.db")) as database, database:
        database.execute("UPDATE trial_params SET param_value = ? WHERE trial_id = 2", (value,))
    with pytest.raises(StudyError, match="study s cannot be read: "):
        load_study(open_storage(url), None)


@pytest.mark.parametrize("names", ["= 'backend'", "!= ''"])
def test_a_search_goes_on_beside_a_trial_that_lacks_parameters(tmp_path: Path, names: str) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    run(session(open_storage(url), FakeBench(), axes=ONE), 2)
    with closing(sqlite3.connect(tmp_path / "study.db")) as database, database:
        database.execute(f"DELETE FROM trial_params WHERE trial_id = 2 AND param_name {names}")
    assert run(session(open_storage(url), FakeBench(), axes=ONE), 2)


def test_a_study_of_other_directions_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    run(session(open_storage(url), FakeBench(), axes=ONE), 1)
    with closing(sqlite3.connect(tmp_path / "study.db")) as database, database:
        database.execute("DELETE FROM study_directions WHERE objective = 1")
    with pytest.raises(StudyError, match="it must minimise two values, got MINIMIZE"):
        load_study(open_storage(url), None)


@pytest.mark.parametrize("value", ["x", None, math.nan, 0, -1.0, 1e308, 5e-324])
def test_a_search_goes_on_beside_a_trial_whose_numbers_are_none(value: object) -> None:
    of = session(InMemoryStorage(), FakeBench(), axes=ONE)
    run(of, 3)
    told = of.study.trials[-1]
    others = {**told.user_attrs, "latency_ms": value}
    of.study.add_trial(
        optuna.trial.create_trial(
            params=told.params,
            distributions=told.distributions,
            values=told.values,
            user_attrs=others,
        )
    )
    assert run(session(storage_of(of.study), FakeBench(), axes=ONE), 2)


ABSURD = [1e308, 1e16, 5e-324, 1e-10]


@pytest.mark.parametrize("number", ABSURD)
@pytest.mark.parametrize("part", ["latency.latency_ms", "latency.host.value", "memory.peak_mib"])
def test_a_trial_of_numbers_that_nobody_can_measure_is_refused(part: str, number: float) -> None:
    of = session(InMemoryStorage(), FakeBench(), axes=ONE)
    run(of, 1)
    (trial,) = of.study.get_trials(deepcopy=False)
    where = ("measurements", *part.split("."))
    evaluation = changed(trial.user_attrs[EVALUATION], where, number)
    trial.user_attrs[EVALUATION] = evaluation
    with pytest.raises(StudyError, match=rf"trial 0 cannot be read: .*{part}: "):
        read_results(load_study(storage_of(of.study), None))


@pytest.mark.parametrize("number", ABSURD)
def test_sensitivity_passes_over_numbers_that_nobody_can_measure(number: float) -> None:
    few = {**ONE, "precision": ("bf16",), "cache": ("static",), "execution": ("eager",)}
    of = session(InMemoryStorage(), FakeBench(), axes=few, sampler="sweep")
    run(of, of.survey.size)
    first, second, *_ = of.study.get_trials(deepcopy=False)
    first.user_attrs["latency_ms"], second.user_attrs["latency_ms"] = number, 1e-300
    report = assess(of.study)
    assert len(report.evidence.observations.values) == of.survey.size - 2
    assert json.dumps(report.as_document(), allow_nan=False)


@pytest.mark.parametrize("values", [(0.0, 1.0), (-1.0, 1.0), (math.inf, 1.0)])
def test_sensitivity_passes_over_values_without_a_logarithm(values: tuple[float, float]) -> None:
    of = session(InMemoryStorage(), FakeBench(), axes=ONE, sampler="random")
    run(of, 21)
    told = of.study.trials[0]
    of.study.add_trial(
        optuna.trial.create_trial(
            params=told.params, distributions=told.distributions, values=values
        )
    )
    assert {found.trials for found in assess(of.study).importances} == {21}
