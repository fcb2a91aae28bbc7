"""Which models of transformers ask for their attention by name, and what they tell it.

Their loading checks that a name exists, not that a model's class will use it. A class with an
attention of its own takes the name's mask and computes the rest itself; where that mask is None,
each token sees all that come after it. So a class is looked at before it takes a name of ours.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
from typing import Any, NamedTuple

from torch import nn
from transformers import PreTrainedModel

_ASKS = re.compile(r"ALL_ATTENTION_FUNCTIONS(\.get_interface\(|\[)")
_OWN = re.compile(r"^class \w*Attention\w*\(nn\.Module\b", re.MULTILINE)
# Classes by implementation, in a dictionary that holds transformers' own names alone.
_CLASSES = re.compile(r"_ATTENTION_CLASSES\[[\w.]*attn_implementation\]")
_CALL = re.compile(r"attention_interface\(\s*self,.*?\n\s+\)", re.DOTALL)


class Asks(NamedTuple):
    """What the modules behind a model's class do, by their source."""

    by_name: bool  # their attention is called through transformers' AttentionInterface
    window_told: bool  # and is told its sliding_window
    window_masked: bool  # a mask with the sliding_window is made


def check_class(model: Any, name: str) -> None:
    """Refuse a model that would not call the attention it is loaded with.

    Raises:
        ValueError: Its class has an attention of its own, or none.
    """
    of: Any = type(model)
    asks = _of_class(of)
    if asks is None:
        if not model.config.sub_configs:
            raise ValueError(f"{type(model).__name__} holds no attention that could be {name}")
        return  # its parts are checked on their own
    if not asks.by_name:
        instead = "load it without"
        if model.config.sub_configs:
            instead += f", or name it for the part that does: {{'text_config': '{name}'}}"
        raise ValueError(
            f"{type(model).__name__} does not ask for its attention by name (transformers' "
            f"AttentionInterface) and would compute its own in place of {name}: {instead}"
        )
    _known.setdefault(type(model.config), asks)


def asks_of(config: Any) -> Asks:
    """Return what the model of a configuration does.

    Raises:
        ValueError: It does not call its attention by name, or nothing is known of it.
    """
    asks = _known.get(type(config))
    if asks is None:
        module = type(config).__module__.replace("configuration_", "modeling_")
        asks = _of_modules((module,))
        if asks is None or not asks.by_name:
            raise ValueError(
                f"the model of {type(config).__name__} is not known to ask for its attention by "
                f"name: load it with attn_implementation={config._attn_implementation}"
            )
        _known[type(config)] = asks
    return asks


def watch(name: str) -> None:
    """Have models checked before they take `name`: when they are built, and when it is set."""
    if not _watched:
        _watch_loading()
    _watched.add(name)


_known: dict[type, Asks] = {}  # by the class of the configuration
_watched: set[str] = set()


def _watch_loading() -> None:
    """Put our check in front of theirs, which is the one place that knows class and name."""
    theirs, their_setting = (
        PreTrainedModel.get_correct_attn_implementation,
        PreTrainedModel.set_attn_implementation,
    )

    @functools.wraps(theirs)
    def checked(self: Any, requested: str | None, *args: Any, **kwargs: Any) -> Any:
        if requested in _watched:
            check_class(self, requested)
        return theirs(self, requested, *args, **kwargs)

    @functools.wraps(their_setting)
    def setting(self: Any, implementation: str | dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        # Where a class cannot, theirs logs a line and leaves it as it is.
        asked = implementation if isinstance(implementation, str) else implementation.get("")
        if asked in _watched:
            check_class(self, asked)
        return their_setting(self, implementation, *args, **kwargs)

    PreTrainedModel.get_correct_attn_implementation = checked
    PreTrainedModel.set_attn_implementation = setting


@functools.cache
def _of_class(model_class: type) -> Asks | None:
    """Return what a class does; None where there is no attention in sight.

    A module without an attention of its own takes those of the modules it builds on.
    """
    own = _of_modules((model_class.__module__,))
    if own is not None:
        return own
    names = sys.modules.get(model_class.__module__)
    built_on = [*model_class.__mro__, *(vars(names).values() if names is not None else ())]
    modules = (of.__module__ for of in built_on if isinstance(of, type) and _is_module(of))
    return _of_modules(tuple(dict.fromkeys(modules)))


def _is_module(of: type) -> bool:
    return issubclass(of, nn.Module) and of is not PreTrainedModel


def _of_modules(names: tuple[str, ...]) -> Asks | None:
    sources = [
        source for name in names if _OWN.search(source := _source(name)) or _ASKS.search(source)
    ]
    if not sources:
        return None
    return Asks(
        by_name=all(_ASKS.search(each) and not _CLASSES.search(each) for each in sources),
        window_told=all(
            any("sliding_window=" in call for call in _CALL.findall(each)) for each in sources
        ),
        window_masked=any("create_sliding_window_causal_mask" in each for each in sources),
    )


@functools.cache
def _source(name: str) -> str:
    try:
        return inspect.getsource(importlib.import_module(name))
    except (ImportError, OSError, TypeError):  # none, or made without a file
        return ""
