"""Starts a study or resumes one, and refuses to mix measurements that differ in kind."""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.storages import BaseStorage

from objectives.schema.environment import Environment
from objectives.schema.limits import Limits
from studies.space.space import SearchSpace
from studies.storage.lock import StudyLock
from studies.storage.optuna_internals import FrozenStudy, study_id_of
from studies.study.attributes import ENVIRONMENT, PLAN, StudyError
from studies.study.plan import Plan, add_environment, environments_of, number_of, plan_of
from studies.study.study import DIRECTIONS, create_study, load_study, study_names


def stored_plan(storage: BaseStorage, name: str | None) -> Plan | None:
    """Return the plan of the study of that name, or None when there is no such study."""
    if name is None or name not in study_names(storage):
        return None
    return plan_of(load_study(storage, name))


def open_study(
    storage: BaseStorage,
    name: str | None,
    plan: Plan,
    environment: Environment,
    *,
    new_environment: bool = False,
) -> optuna.Study:
    """Create the study, or resume the one of that name. Without a name, one is made up.

    With `new_environment` it goes on where it was not measured before, and marks its trials.

    Raises:
        StudyError: The stored study was planned or measured differently; names each difference.
    """
    stored = stored_plan(storage, name)
    if stored is None:
        study = _create(storage, name, plan, environment)
        if study is not None:
            return study
        if name is None:  # another process took the name that was made up
            return open_study(storage, None, plan, environment)
        stored = stored_plan(storage, name)
        assert stored is not None
    study = load_study(storage, name)
    differences = plan_differences(stored, plan)
    if differences:
        raise StudyError(f"study {name} cannot be resumed, these differ: {'; '.join(differences)}")
    StudyLock(study).do(lambda: _let_in(study, environment, new=new_environment))
    return study


def _let_in(study: optuna.Study, environment: Environment, *, new: bool) -> None:
    """See to it that the environment is one of the study's; with `new` it may become one."""
    known = environments_of(study)
    if number_of(known, environment) is not None:
        return
    if not new:
        differences = known[-1].differences(environment)
        raise StudyError(
            f"study {study.study_name} cannot be resumed, these differ: {'; '.join(differences)} "
            "(--new-environment goes on all the same, and marks the trials)"
        )
    add_environment(study, environment)


def _create(
    storage: BaseStorage, name: str | None, plan: Plan, environment: Environment
) -> optuna.Study | None:
    """Create the study, under a name made up if it has none; None if another process was first."""
    taken = {study.study_name: study for study in storage.get_all_studies()}
    there = taken.get(name or "")
    if there and not _was_begun(storage, there) and not _is_ours(storage, there):
        raise StudyError(f"study {name} is not one of this product's, and is left alone")
    if name is None:
        name = next(n for i in range(1, len(taken) + 2) if (n := f"attention-{i}") not in taken)
    return create_study(storage, name, plan, environment)


def _was_begun(storage: BaseStorage, study: FrozenStudy) -> bool:
    """Tell whether a study is one of ours whose creation was cut short."""
    ours = tuple(study.directions) == DIRECTIONS
    empty = study.user_attrs.keys() <= {ENVIRONMENT}
    return ours and empty and not storage.get_n_trials(study_id_of(study))


def _is_ours(storage: BaseStorage, study: FrozenStudy) -> bool:
    """Tell whether a study has a plan by now: another process may have just created it."""
    return PLAN in storage.get_study_user_attrs(study_id_of(study))


def plan_differences(there: Plan, here: Plan) -> list[str]:
    """Name what two plans do not share."""
    differences = _space_differences(there.space, here.space)
    differences += _fields(there, here, ("sampler", "seed"))
    differences += _fields(there.limits, here.limits, tuple(Limits.model_fields))
    if {plugin.sha256 for plugin in there.plugins} != {plugin.sha256 for plugin in here.plugins}:
        listed = [_listed([p.label for p in plan.plugins] or None) for plan in (there, here)]
        differences.append(f"plugin: {listed[0]} there, {listed[1]} here")
    return differences


def _space_differences(there: SearchSpace, here: SearchSpace) -> list[str]:
    return [
        f"{name}: {_listed(there.axes.get(name))} there, {_listed(here.axes.get(name))} here"
        for name in sorted(there.axes.keys() | here.axes.keys())
        if there.axes.get(name) != here.axes.get(name)
    ]


def _fields(there: object, here: object, names: Sequence[str]) -> list[str]:
    return [
        f"{name}: {getattr(there, name)} there, {getattr(here, name)} here"
        for name in names
        if getattr(there, name) != getattr(here, name)
    ]


def _listed(choices: Sequence[object] | None) -> str:
    return "nothing" if choices is None else ",".join(map(str, choices))
