"""The declared families against transformers' own classes, as many as it has."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterator

import pytest
import torch

pytest.importorskip("transformers", reason="needs transformers: pip install '.[hf]'")
from huggingface_hub.errors import StrictDataclassError

from tests.variants.tiny_models import (
    CONFIG_MAPPING,
    CONFIG_MAPPING_NAMES,
    OWN_ATTENTION,
    TOKENS,
    Numbers,
    as_file,
    build,
    declared_here,
    numbers_of,
    projected,
    recorded_attention,
    tiny,
)
from variants.models import ModelError, model_from_config
from variants.models.config_file import FAMILIES
from variants.models.undeclared import REASONS
from variants.models.wrappers import WRAPPERS

HERE = declared_here(FAMILIES)


def read(document: dict[str, object]) -> Numbers:
    model = model_from_config(document, "file")
    return Numbers(
        model.q_heads, model.kv_heads, model.head_dim, model.hidden_size, dict(model.layers)
    )


def test_a_model_type_is_declared_or_refused_once() -> None:
    told = [set(FAMILIES), set(REASONS), set(WRAPPERS)]
    assert sum(map(len, told)) == len(set.union(*told))
    assert {inner for _, inner in WRAPPERS.values() if inner} <= set(FAMILIES)


@pytest.mark.parametrize("defaults", [True, False], ids=["all fields", "without defaults"])
@pytest.mark.filterwarnings("ignore")
def test_every_configuration_class_agrees_or_is_refused(
    defaults: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    told: Counter[str] = Counter()
    wrong = {}
    for model_type in CONFIG_MAPPING_NAMES:
        try:
            config = CONFIG_MAPPING[model_type]()
        except (ValueError, StrictDataclassError):  # a class that has no default
            told["not built"] += 1
            continue
        document = as_file(config, defaults=defaults)
        try:
            found = read(document)
        except ModelError as error:
            told["refused"] += 1
            text = str(error)
            named = "model_type" in text or any(name in text for name in named_in(document))
            if not named or "\n" in text:
                wrong[model_type] = text
            continue
        told["agree"] += 1
        if found != numbers_of(config):
            wrong[model_type] = f"{found} is not {numbers_of(config)}"
    with capsys.disabled():
        print(f"\nconfiguration classes of transformers: {dict(told)}")
    assert not wrong
    assert told["agree"] > 140
    assert told["not built"] < 10


def named_in(document: dict[str, object]) -> set[str]:
    inner = [value for value in document.values() if isinstance(value, dict)]
    return set(document) | {name for value in inner for name in named_in(value)}


@pytest.mark.parametrize("model_type", HERE)
@pytest.mark.filterwarnings("ignore")
def test_a_field_that_is_left_out_or_null_or_other_is_read_as_its_class_reads_it(
    model_type: str,
) -> None:
    agree = 0
    for config in (CONFIG_MAPPING[model_type](), tiny(model_type)):
        document = as_file(config, defaults=True)
        for changed in changes(document):
            try:
                found = read(copy.deepcopy(changed))
            except ModelError:
                continue
            try:
                theirs = numbers_of(type(config).from_dict(copy.deepcopy(changed)))
            except (ArithmeticError, AttributeError, TypeError, ValueError, StrictDataclassError):
                continue  # what transformers does not take, nobody's model has
            assert found == theirs, changed
            agree += 1
    assert agree > 5


def changes(document: dict[str, object]) -> Iterator[dict[str, object]]:
    """Return files with one field of attention left out, null, or another number."""
    of_attention = re.compile(
        "head|layer|window|hidden_size|n_embd|d_model|multi_query|attn|types"
    )
    for name in filter(of_attention.search, {*document, "head_dim"}):
        yield {other: value for other, value in document.items() if other != name}
        yield document | {name: None}
        if not isinstance(document.get(name, 1), str | list | dict):
            yield document | {name: 8}
            yield document | {name: True}


@pytest.mark.parametrize("model_type", HERE)
@pytest.mark.filterwarnings("ignore")
def test_a_running_model_gives_its_attention_what_was_read(model_type: str) -> None:
    config = tiny(model_type)
    found = read(as_file(config, defaults=True))
    assert found.hidden_size == 64
    if model_type in OWN_ATTENTION:
        widths = projected(build(config, "eager"))
        width = (found.q_heads + 2 * found.kv_heads) * found.head_dim
        assert widths == [width] * sum(found.layers.values())
        return
    with recorded_attention() as calls, torch.no_grad():
        build(config, "recorder").eval()(
            input_ids=torch.arange(3, 3 + TOKENS)[None], use_cache=False
        )
    assert {call[:4] for call in calls} == {
        (found.q_heads, found.kv_heads, found.head_dim, found.head_dim)
    }
    assert not any(call.sinks for call in calls)
    visible = Counter(call.visible for call in calls)
    expected: Counter[int] = Counter()
    for score_mod, layers in found.layers.items():
        _, colon, window = score_mod.partition("sliding_window:")
        expected[int(window) if colon else TOKENS] += layers
    assert visible == expected
