"""Plugins: a user's own backend, score_mod or cache, registered from a file of theirs.

A file is run because somebody named it, never because a database or an exported JSON did: those
keep its path and the hash of its content, to ask for it and to notice that it has changed.
"""

from __future__ import annotations

import hashlib
import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ConfigDict

from variants.backends import BACKENDS, Backend, Support
from variants.caches import CACHES, CacheKind, KVCache
from variants.registry import Registry
from variants.score_mods import SCORE_MODS, ScoreMod, parse_score_mod
from variants.user_error import UserError

MAX_BYTES = 100_000  # the measuring process is given the content, not the path
_OPEN: tuple[Registry[Any], ...] = (BACKENDS, SCORE_MODS, CACHES)
_loaded: dict[str, PluginSource] = {}  # by the hash of the content


class PluginError(UserError):
    """A file that cannot be loaded as a plugin; the message names it."""


class Plugin(BaseModel):
    """Which file, and which content of it."""

    model_config = ConfigDict(frozen=True)

    path: str
    sha256: str

    @property
    def label(self) -> str:
        """Path and the beginning of the hash, for messages."""
        return f"{self.path} (sha256 {self.sha256[:8]})"


class PluginSource(Plugin):
    """The same with the content, as it was when it was read."""

    source: str

    @property
    def plugin(self) -> Plugin:
        """What is stored of it in a study: its path and hash, not its content."""
        return Plugin(path=self.path, sha256=self.sha256)


def loaded_plugins() -> tuple[PluginSource, ...]:
    """Return the plugins of this process, in the order in which they were loaded."""
    return tuple(_loaded.values())


def missing_plugins(wanted: tuple[Plugin, ...]) -> list[str]:
    """Name the plugins of `wanted` that are not loaded, and say which of them have changed."""
    paths = {plugin.path: plugin for plugin in loaded_plugins()}
    return [
        f"{plugin.label}, which is {paths[plugin.path].sha256[:8]} now"
        if plugin.path in paths
        else plugin.label
        for plugin in wanted
        if plugin.sha256 not in _loaded
    ]


def read_plugin(path: str | Path) -> PluginSource:
    """Read a file without running it.

    Raises:
        PluginError: It cannot be read, or is too large to be handed on.
    """
    resolved = Path(path).resolve()
    try:
        content = resolved.read_bytes()
        source = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise PluginError(f"plugin must be a Python file that can be read: {error}") from None
    if len(content) > MAX_BYTES:
        raise PluginError(f"plugin must have at most {MAX_BYTES} bytes, {path} has {len(content)}")
    digest = hashlib.sha256(content).hexdigest()
    return PluginSource(path=str(resolved), sha256=digest, source=source)


def load_plugin(plugin: PluginSource) -> None:
    """Run a plugin's content, which registers its entries, and check these. Once a process.

    Raises:
        PluginError: It raises, registers nothing, or what it registers is not whole.
    """
    if plugin.sha256 in _loaded:
        return
    before = [set(registry) for registry in _OPEN]
    name = f"goldilocks_plugin_{plugin.sha256[:8]}"
    module = ModuleType(name)
    module.__file__ = plugin.path
    sys.modules[name] = module  # where dataclasses and pickle look for it
    try:
        exec(compile(plugin.source, plugin.path, "exec"), module.__dict__)
        added = [
            registry[entry]
            for registry, known in zip(_OPEN, before, strict=True)
            for entry in registry
            if entry not in known
        ]
        for entry in added:
            _check(entry)
    except Exception as error:  # whatever a file of the user's raises
        raise PluginError(f"plugin {plugin.path}: {_told(error, plugin.path)}") from None
    if not added:
        raise PluginError(f"plugin {plugin.path}: it registers no backend, score_mod or cache")
    _loaded[plugin.sha256] = plugin


def _told(error: Exception, path: str) -> str:
    """Return one line: where in the plugin it happened, and what."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == path
    ]
    where = f"line {lines[-1]}: " if lines else ""
    text = " ".join(str(error).split())[:300]
    return f"{where}{type(error).__name__}: {text}"


def _check(entry: object) -> None:
    """Look at what this process will ask of an entry, so that no search ends in the middle."""
    if isinstance(entry, Backend):
        _check_backend(entry)
    elif isinstance(entry, ScoreMod):
        _check_score_mod(entry)
    elif isinstance(entry, CacheKind):
        _need(
            entry.cache is None or issubclass(entry.cache, KVCache),
            f"cache of {entry.name} must be a subclass of KVCache",
        )


def _check_backend(backend: Backend) -> None:
    supports: object = backend.support  # whatever the types say
    _need(
        isinstance(supports, Mapping)
        and bool(supports)
        and all(isinstance(support, Support) for support in supports.values()),
        f"support of {backend.name} must hold a Support for each kind of device",
    )
    _need(not backend.axes, f"axes of {backend.name} must be none: plugins cannot add axes")
    _need(callable(backend.prepare), f"prepare of {backend.name} must be callable")
    for kind in backend.support:
        _need(
            kind in backend.proof,
            f"proof of {backend.name} must name an operator or kernel that runs on {kind}: "
            f"a torch.library.custom_op will do",
        )
        re.compile(backend.proof[kind])


def _check_score_mod(mod: ScoreMod) -> None:
    canonical = mod.canonical()
    _need(parse_score_mod(canonical).canonical == canonical, f"{canonical} must read back")
    _need(mod.parameter is None or mod.default > 0, f"default of {mod.name} must be above 0")
    if mod.visible_keys is not None:
        seen: list[object] = [mod.visible_keys(mod.default, place) for place in (0, 1, 1000)]
        _need(
            all(isinstance(count, int) and count > 0 for count in seen),
            f"visible_keys of {mod.name} must be positive integers, got {seen}",
        )


def _need(holds: bool, claim: str) -> None:
    if not holds:
        raise ValueError(claim)
