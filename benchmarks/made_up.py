"""Studies full of numbers that nobody measured: of any size, in seconds, without a GPU.

Trials are as real ones store them, but are written in bulk and past Optuna, whose own writing
takes a dozen transactions for each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import sqlalchemy
from numpy.typing import NDArray

from objectives.roofline.bound import DATASHEET, Peaks, under_roofline
from objectives.roofline.prior import predict
from objectives.schema.comparison import Comparison, Retimed
from objectives.schema.environment import Environment
from objectives.schema.evaluation import (
    Conditions,
    Evaluation,
    Latency,
    Measurements,
    Memory,
    Outcome,
    Samples,
)
from objectives.schema.limits import Limits
from objectives.schema.profile import Profile
from studies.results.front import WorkloadResult
from studies.results.results import read_results
from studies.samplers.goldilocks import PROBE_EVERY
from studies.session.session import Session
from studies.space.catalogue import Catalogue, catalogue_of
from studies.space.probes import probe_order
from studies.space.space import SearchSpace, Survey, survey
from studies.storage.optuna_internals import engine_of, storage_of, study_id_of
from studies.storage.owner import this_process
from studies.study.anchor import EVERY, AnchorPoint
from studies.study.attributes import ANCHORS, EXPECTED_GAIN
from studies.study.baseline import baseline_of, default_of
from studies.study.opening import open_study
from studies.study.plan import Plan
from studies.study.study import open_storage
from variants.configuration import Configuration
from variants.device import DEVICE_PROFILES, Device

AXES: Mapping[str, tuple[int | str, ...]] = {
    "phase": ("decode",),
    "batch": (1, 2, 4, 8, 16, 32, 64, 128),
    "seq_len": (512, 1024, 2048, 4096, 8192, 16384),
    "q_heads": (16, 32),
    "kv_heads": (8,),
    "backend": ("eager", "math", "flash", "efficient", "cudnn", "flex"),
    "precision": ("fp32", "tf32", "bf16", "fp16"),
    "quantization": (
        *("none", "int8_weight_only", "int8_dynamic"),
        *("fp8_weight_only", "fp8_dynamic"),
    ),
    "cache": ("none", "concat", "static", "ring", "paged"),
    "kv_dtype": ("same", "int8", "fp8"),
    "gqa": ("native", "repeat_kv"),
    "execution": ("eager", "compiled", "cuda_graph"),
}
FEW_AXES: Mapping[str, tuple[int | str, ...]] = {
    **{name: choices[:2] for name, choices in AXES.items()},
    "precision": ("fp32", "bf16"),
    "cache": ("concat", "static"),
}
HOST, BEGAN = "made-up", datetime(2026, 1, 1)
KERNELS = tuple(f"void kernel_{number}<128, 64, bf16, true>(Params)" for number in range(10))
TOGETHER = 2_000  # trials written in one transaction
EARLY = 1_000  # trials, after which finalists are timed again


def share(text: str) -> float:
    """Return a number in [0, 1) that looks random and is always the same for a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48


class MadeUpBench:
    """Answers at once: what the roofline expects, turned by each choice and some noise."""

    def device(self) -> Device:
        """Return an H100."""
        return DEVICE_PROFILES["h100"].device

    def environment(self) -> Environment:
        """Return one that is not this machine's."""
        return Environment(
            device=self.device(),
            driver="580",
            cuda="13.0",
            python="3.12.3",
            platform="Linux x86_64",
            goldilocks="0",
        )

    def evaluate(self, configuration: Configuration) -> Evaluation:
        """Make up everything that a measurement holds."""
        variant, key = configuration.variant, configuration.key
        chance = share(f"{key} outcome")
        if chance < 0.05:
            reason = f"no kernel for a head of {64 + int(1000 * chance)}"
            return Evaluation(configuration=configuration, outcome=Outcome.REFUSED, reason=reason)
        expected = predict(configuration, self.device())
        latency, memory = expected.latency_ms, expected.memory_mib
        for choice in (variant.backend, variant.precision, variant.execution):
            latency *= 2 ** (share(f"{choice} latency") - 0.5)
        latency *= 1.1 ** (share(key) - 0.5)
        memory *= 1.5 ** share(f"{variant.backend} {variant.cache} memory")
        if memory > self.device().memory_bytes / 2**20:
            reason = f"CUDA out of memory. Tried to allocate {memory:.0f} MiB"
            return Evaluation(
                configuration=configuration, outcome=Outcome.OUT_OF_MEMORY, reason=reason
            )
        error = (3e-2 if variant.quantization != "none" else 4e-3) * 2 ** share(f"{key} error")
        inaccurate = error > 5e-2
        return Evaluation(
            configuration=configuration,
            outcome=Outcome.INACCURATE if inaccurate else Outcome.MEASURED,
            reason=f"relative error {error:.3g} is above 0.05" if inaccurate else "",
            measurements=_measurements(latency, memory, error, variant.backend),
            seconds={"build": 0.02, "first step": 0.7, "memory": 0.1, "latency": 0.4},
        )

    def peaks(self) -> Peaks:
        """Return those of the datasheet."""
        return DATASHEET["NVIDIA H100"]

    def compare(self, configurations: Sequence[Configuration]) -> Comparison:
        """Return rounds with 1 % of noise around what `evaluate` says."""
        rng = np.random.default_rng(0)
        group, missing = [], {}
        for configuration in configurations:
            measured = self.evaluate(configuration).measurements
            if measured is None:
                missing[configuration.key] = "it does not run"
                continue
            times = tuple((measured.latency.latency_ms * rng.normal(1, 0.01, 20)).tolist())
            host = tuple(time / 2 for time in times)
            group.append(
                Retimed(configuration=configuration, gpu_ms=times, host_ms=host, held=True)
            )
        return Comparison(groups=(tuple(group),), missing=missing, seconds=1.0)

    def profile(self, configuration: Configuration, folder: object, prefix: str) -> Profile:
        """Refuse: there is nothing to see."""
        raise NotImplementedError

    def accepted_by_pytorch(self, configuration: Configuration) -> bool | None:
        """Say that it is not known."""
        return None

    def interrupt(self) -> None:
        """There is nothing to end."""

    def close(self) -> None:
        """There is no process to end."""


def _measurements(latency: float, memory: float, error: float, backend: str) -> Measurements:
    def samples(value: float) -> Samples:
        return Samples(
            quantile=0.5,
            value=value,
            low=value * 0.996,
            high=value * 1.004,
            iqr=value * 0.01,
            count=60,
            stopped="precise",
        )

    gpu = samples(latency)
    return Measurements(
        latency=Latency(
            latency_ms=latency,
            low_ms=gpu.low,
            high_ms=gpu.high,
            bound="gpu",
            gpu=gpu,
            held=True,
            host=samples(latency / 2),
            first_step_ms=700.0,
            new_length_ms=0.1,
        ),
        memory=Memory(
            peak_mib=memory,
            weights_mib=memory / 4,
            cache_mib=memory / 2,
            transient_mib=memory / 4,
            reserved_mib=memory * 1.2,
            workspace_mib=32.0,
        ),
        relative_error=error,
        backend_ran=backend,
        kernels=KERNELS,
        conditions=Conditions(sm_mhz=(1755, 1980), temperature_c=55),
    )


def made_up_plan(*, few: bool = False) -> Plan:
    """Return a plan of 96 workloads and more than 200,000 configurations, or of a few."""
    space = SearchSpace(axes=dict(FEW_AXES if few else AXES))
    return Plan(space=space, limits=Limits(max_error=5e-2), sampler="goldilocks", seed=0)


def fill(url: str, name: str, count: int, *, few: bool = False) -> None:
    """Create a study of `count` finished trials, with defaults, anchors and finalists."""
    plan, bench = made_up_plan(few=few), MadeUpBench()
    study = open_study(open_storage(url), name, plan, bench.environment())
    found = survey(plan.space, bench.device())
    session = Session(study, plan, found, bench, HOST)
    session.calibration.begin(session.workers[0])
    list(session.baselines.measure_missing())
    engine = engine_of(storage_of(study))
    assert engine is not None
    writer = _Writer(engine, study_id_of(study), found, plan, _baselines(study, found), count)
    early = min(count, EARLY)
    writer.write(range(early))
    # As when a run ended there and another went on: of all, it would take longer than filling.
    results: Sequence[WorkloadResult] = read_results(study).workloads
    for result in session.retiming.due(results):
        session.retiming.measure(result)
    for first in range(early, count, TOGETHER):
        writer.write(range(first, min(first + TOGETHER, count)))
    points = [_anchor(number) for number in range(0, count, EVERY)]
    study.set_user_attr(ANCHORS, [point.model_dump(mode="json") for point in points])


def _anchor(number: int) -> AnchorPoint:
    """Return an anchor; one in a hundred is late, so that there is drift to speak of."""
    value = 0.2 * (1.1 if number % (100 * EVERY) == EVERY else 1.0)
    return AnchorPoint(
        before_trial=number,
        value_ms=value,
        low_ms=value * 0.99,
        high_ms=value * 1.01,
        measured_on=HOST,
    )


def _baselines(study: Any, found: Survey) -> dict[str, tuple[float, float]]:
    """Return what memory and latency of each workload are divided by."""
    baselines = {}
    for workload in found.workloads:
        default = default_of(study, workload)
        assert default is not None
        baseline = baseline_of(default, MadeUpBench().device())
        baselines[workload.key] = baseline.peak_memory_mib, baseline.latency_ms
    return baselines


def _tried(catalogue: Catalogue, seed: int, count: int) -> NDArray[np.int64]:
    """Return which configurations were tried: probes, as many as in a real study, and others."""
    probes = probe_order(catalogue.sizes, seed)[: count // PROBE_EVERY]
    rng = np.random.default_rng(seed)
    others = np.setdiff1d(rng.permutation(len(catalogue)), probes)
    return rng.permutation(np.r_[probes, rng.permutation(others)[: count - len(probes)]])


class _Writer:
    """Writes finished trials into the tables of a study's database."""

    def __init__(
        self,
        engine: sqlalchemy.Engine,
        study_id: int,
        found: Survey,
        plan: Plan,
        baselines: Mapping[str, tuple[float, float]],
        count: int,
    ) -> None:
        """Choose which configurations were tried."""
        self._engine, self._study_id, self._baselines = engine, study_id, baselines
        self._catalogue = catalogue_of(found)
        tried = _tried(self._catalogue, plan.seed, count).tolist()
        wanted, kept = set(tried), {}
        for index, configuration in enumerate(found.configurations()):
            if index in wanted:
                kept[index] = configuration
        self._tried = [(index, kept[index]) for index in tried]
        self._tables = sqlalchemy.MetaData()
        self._tables.reflect(engine)
        self._bench, self._owner = MadeUpBench(), this_process().model_dump()
        self._distributions = {
            name: json.dumps(
                {"name": "CategoricalDistribution", "attributes": {"choices": list(choices)}}
            )
            for name, choices in self._catalogue.choices.items()
        }

    def write(self, numbers: range) -> None:
        """Write the trials of these numbers."""
        told = {number: self._evaluate(self._tried[number][1]) for number in numbers}
        trials = self._tables.tables["trials"]
        rows: dict[str, list[dict[str, object]]] = {}
        with self._engine.begin() as connection:
            connection.execute(
                trials.insert(), [_trial(self._study_id, n, told[n]) for n in numbers]
            )
            ids = connection.execute(
                sqlalchemy.select(trials.c.number, trials.c.trial_id)
                .where(trials.c.study_id == self._study_id)
                .where(trials.c.number.between(numbers.start, numbers.stop - 1))
            )
            for number, trial_id in ids:
                for table, row in self._rows(number, told[number]):
                    rows.setdefault(table, []).append({"trial_id": trial_id, **row})
            for table, all_of in rows.items():
                connection.execute(self._tables.tables[table].insert(), all_of)

    def _evaluate(self, configuration: Configuration) -> Evaluation:
        evaluation = self._bench.evaluate(configuration)
        return under_roofline(evaluation, self._bench.device(), self._bench.peaks())

    def _rows(
        self, number: int, evaluation: Evaluation
    ) -> Iterator[tuple[str, dict[str, object]]]:
        """Yield what a trial has, by table."""
        for key, value in _attributes(evaluation, self._owner):
            yield "trial_user_attributes", {"key": key, "value_json": json.dumps(value)}
        yield "trial_system_attributes", {"key": EXPECTED_GAIN, "value_json": "0.01"}
        for name, choice in self._catalogue.params(self._tried[number][0]).items():
            place = float(self._catalogue.choices[name].index(choice))
            stored = self._distributions[name]
            row = {"param_name": name, "param_value": place, "distribution_json": stored}
            yield "trial_params", row
        for objective, value in _values(evaluation, self._baselines):
            row = {"objective": objective, "value": value, "value_type": "FINITE"}
            yield "trial_values", row


def _trial(study_id: int, number: int, evaluation: Evaluation) -> dict[str, object]:
    begin = BEGAN + timedelta(seconds=2 * number)
    state = "COMPLETE" if evaluation.outcome is Outcome.MEASURED else "PRUNED"
    end = begin + timedelta(seconds=1)
    return {
        "study_id": study_id,
        "number": number,
        "state": state,
        "datetime_start": begin,
        "datetime_complete": end,
    }


def _attributes(evaluation: Evaluation, owner: object) -> Iterator[tuple[str, object]]:
    """Yield what `studies.study.study.ask` and `tell` store."""
    yield "owner", owner
    yield "measured_on", HOST
    yield "evaluation", evaluation.model_dump(mode="json")
    yield "outcome", evaluation.outcome.value
    if evaluation.reason:
        yield "reason", evaluation.reason
    if evaluation.measurements is not None:
        yield "latency_ms", evaluation.latency_ms
        yield "peak_memory_mib", evaluation.peak_memory_mib
        yield "relative_error", evaluation.measurements.relative_error


def _values(
    evaluation: Evaluation, baselines: Mapping[str, tuple[float, float]]
) -> Iterator[tuple[int, float]]:
    if evaluation.outcome is Outcome.MEASURED:
        memory, latency = baselines[evaluation.configuration.workload.key]
        assert evaluation.peak_memory_mib is not None
        assert evaluation.latency_ms is not None
        yield 0, evaluation.peak_memory_mib / memory
        yield 1, evaluation.latency_ms / latency
