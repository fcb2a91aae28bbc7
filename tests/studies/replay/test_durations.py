"""What the trials of a recorded table took."""

from __future__ import annotations

from pathlib import Path

import pytest

from studies.replay.durations import REST_S, STEPS, durations_of
from studies.replay.table import TableError, read_table
from tests.recorded_tables import with_columns


def test_recorded_stages_are_summed(table: Path) -> None:
    build, latency = [f"{row}.25" for row in range(96)], ["0.5"] * 96
    with_columns(table, {"seconds build": build, "seconds latency": latency})
    recorded = read_table(table)
    assert recorded.unknown == ()
    durations = durations_of(recorded)
    assert durations.seconds.tolist() == [row + 0.75 for row in range(96)]  # out of memory, too
    assert durations.words == "96 configurations take all stages as recorded"


def test_the_rest_of_a_first_call_is_a_model(table: Path) -> None:
    failed = ["oom" in line for line in table.read_text().splitlines()[1:]]
    assert any(failed)
    recorded = read_table(with_columns(table, {"compile_s": ["" if f else "2.5" for f in failed]}))
    durations = durations_of(recorded)
    for seconds, evaluation in zip(durations.seconds, recorded.evaluations, strict=True):
        latency_ms = evaluation.latency_ms
        known = 0.0 if latency_ms is None else 2.5 + STEPS * latency_ms / 1000
        assert seconds == pytest.approx(REST_S + known)
    assert f"{96 - sum(failed)} configurations take the first call as recorded" in durations.words
    assert f"{sum(failed)} configurations take 0.55 s and 40 steps" in durations.words


def test_without_times_all_is_the_model(table: Path) -> None:
    durations = durations_of(read_table(table))
    assert durations.words.startswith("96 configurations take 0.55 s and 40 steps")
    assert min(durations.seconds) == REST_S


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_what_is_no_time_is_refused_when_it_is_needed(table: Path, text: str) -> None:
    recorded = read_table(with_columns(table, {"compile_s": ["0.1"] * 95 + [text]}))
    with pytest.raises(TableError, match=f"first step .* number of seconds, got {text}"):
        durations_of(recorded)
