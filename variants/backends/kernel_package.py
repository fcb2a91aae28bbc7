"""Packages from elsewhere that hold attention kernels: none is needed, each is found or not."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType


class KernelPackageError(RuntimeError):
    """A package is installed and cannot be loaded; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelPackage:
    """What a backend needs beside PyTorch."""

    distribution: str  # its name on the registry
    module: str  # what is imported
    since: str  # the oldest version whose calls are those that the backend makes

    @property
    def top(self) -> str:
        """The module that stands for it: looking for it imports nothing."""
        return self.module.partition(".")[0]

    def installed_version(self) -> str | None:
        """Return the version that is installed, without importing it; None where there is none."""
        if importlib.util.find_spec(self.top) is None:
            return None
        try:
            return version(self.distribution)
        except PackageNotFoundError:  # another package's module of that name
            return None

    def usable(self, installed: Mapping[str, str]) -> bool:
        """Tell whether it is among the `installed` versions by distribution, and new enough."""
        return self.obstacle(installed) is None

    def obstacle(self, installed: Mapping[str, str]) -> str | None:
        """Say why it cannot be used; None where it can."""
        here = installed.get(self.distribution)
        if here is None:
            return f"{self.distribution}, which is not installed"
        if _release(here) < _release(self.since):
            return f"{self.distribution} {self.since} or newer, got {here}"
        return None

    def load(self) -> ModuleType:
        """Import it.

        Raises:
            KernelPackageError: It cannot be.
        """
        return _loaded(self)


def installed_versions(packages: Iterable[KernelPackage]) -> dict[str, str]:
    """Return the versions by distribution of those that are installed, importing none."""
    found = {package.distribution: package.installed_version() for package in packages}
    return {name: here for name, here in found.items() if here is not None}


@functools.cache
def _loaded(package: KernelPackage) -> ModuleType:
    try:
        return importlib.import_module(package.module)
    except (ImportError, OSError, RuntimeError) as error:
        lines = str(error).strip().splitlines()
        why = lines[0] if lines else type(error).__name__
        raise KernelPackageError(f"{package.distribution} cannot be loaded: {why}") from error


def missing(packages: tuple[KernelPackage, ...], installed: Mapping[str, str]) -> Iterator[str]:
    """Say of packages of which one is enough why none can be used; nothing where one can."""
    obstacles = [package.obstacle(installed) for package in packages]
    if not packages or None in obstacles:
        return
    if not any(package.distribution in installed for package in packages):
        names = " or ".join(package.distribution for package in packages)
        yield f"{names}, which is not installed"
    else:
        yield " or ".join(str(obstacle) for obstacle in obstacles)


def _release(text: str) -> tuple[int, ...]:
    """Return the numbers of a release, `(3, 0, 0)` of 3.0.0.post20260810."""
    numbers = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, numbers[0].split("."))) if numbers else ()
