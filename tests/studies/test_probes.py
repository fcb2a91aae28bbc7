"""Probe trials are an honest sample of the space, whoever tried them."""

from collections import Counter

import pytest

from studies.probes import pairs_of, probe_order, probed
from studies.space import SearchSpace, survey
from variants.device import DEVICE_PROFILES

SPACE = SearchSpace(
    axes={
        "phase": ("decode",),
        "seq_len": (512, 1024, 2048, 4096),
        "score_mod": ("none", "softcap"),
        "backend": ("eager", "math", "flash", "cudnn", "flex"),
        "precision": ("bf16", "fp16"),
        "cache": ("none", "concat", "static"),
    }
)
SURVEY = survey(SPACE, DEVICE_PROFILES["h100"].device)


def test_the_order_holds_every_configuration_once_and_depends_on_the_seed() -> None:
    order = probe_order(SURVEY, 0)
    assert sorted(order) == list(range(SURVEY.size))
    assert list(order) == list(probe_order(SURVEY, 0))
    assert list(order) != list(probe_order(SURVEY, 1))


@pytest.mark.parametrize("count", [8, 20, 50])
def test_any_beginning_has_of_each_workload_its_share(count: int) -> None:
    pairs = pairs_of(SURVEY)
    got = Counter(pairs[index][0] for index in probe_order(SURVEY, 3)[:count])
    for workload in SURVEY.workloads:
        share = count * len(SURVEY.possible[workload.key]) / SURVEY.size
        assert abs(got[workload.key] - share) < 1 + 1e-9


def test_tried_ones_count_whoever_chose_them() -> None:
    pairs, order = pairs_of(SURVEY), probe_order(SURVEY, 0)
    tried = {pairs[index] for index in order[[0, 1, 2, 5, 9]]}
    assert probed(SURVEY, 0, tried) == [pairs[index] for index in order[:3]]
    assert probed(SURVEY, 0, set()) == []
    assert len(probed(SURVEY, 0, set(pairs))) == SURVEY.size
