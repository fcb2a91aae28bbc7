"""Where a configuration can be deployed: as a layer of one's own, or inside of transformers.

Pure functions of declarations: nothing here needs transformers, PyTorch or a GPU.
"""

from __future__ import annotations

from typing import Literal, get_args

from variants.backends import BACKENDS, Takes
from variants.caches import CACHES
from variants.configuration import Configuration
from variants.deploy.model_choice import ModelChoice
from variants.device import DeviceKind
from variants.executions import EXECUTIONS
from variants.quantizations import QUANTIZATIONS

Target = Literal["own-layer", "transformers-eager", "transformers-captured"]
TARGETS: tuple[Target, ...] = get_args(Target)
# What transformers tells its attention of what a layer does to its scores.
_TOLD_BY_TRANSFORMERS = frozenset({"none", "softcap", "sliding_window"})


def target_label(target: Target) -> str:
    """Return a target as words: `transformers captured`."""
    return target.replace("-", " ")


def targets_of(configuration: Configuration, kind: DeviceKind) -> tuple[Target, ...]:
    """Return where a configuration runs as it was measured."""
    return tuple(t for t in TARGETS if obstacle_to(t, configuration, kind) is None)


def obstacle_to(target: Target, configuration: Configuration, kind: DeviceKind) -> str | None:
    """Say why a configuration cannot be deployed to a target; None where it can.

    A layer of one's own (`Deployment.layer`) is what was measured. In transformers, attention and
    cache are part of its models (`variants.hf`), launched one by one, or with the decode steps
    captured (`hf.capture_decoding`): prompts are then still launched one by one.

    Args:
        target: Where it is to run.
        configuration: Was measured.
        kind: Of the device that it was measured on.
    """
    if target == "own-layer":
        return None
    workload = configuration.workload
    untold = [part.entry.name for part in workload.scores.parts
              if part.entry.name not in _TOLD_BY_TRANSFORMERS]  # fmt: skip
    if untold:
        return f"transformers does not tell its attention of {', '.join(untold)}"
    if target == "transformers-captured":
        if workload.trains:
            return "a captured step records no gradients"
        if workload.decodes:
            return _obstacle_to_capture(configuration, kind)
    execution = EXECUTIONS[configuration.variant.execution]
    if execution.captures:
        what = "a prompt is" if target == "transformers-captured" else "kernels are"
        return f"{what} launched one by one, and execution {execution.name} replays a whole step"
    return None


def _obstacle_to_capture(configuration: Configuration, kind: DeviceKind) -> str | None:
    """Say why a decode step cannot be part of a captured step of the whole model."""
    variant = configuration.variant
    if kind != "cuda":
        return f"{kind} has no CUDA graphs"
    if not QUANTIZATIONS[variant.quantization].capturable:
        return f"quantization {variant.quantization} cannot be captured into a CUDA graph"
    support = BACKENDS[variant.backend].support.get(kind)
    if support is None or support.takes < Takes.ADDITIVE:
        return (
            f"backend {variant.backend} takes no mask, which hides what a captured step has not "
            f"reached yet"
        )
    return obstacle_of_choice(ModelChoice.of(variant))


def obstacle_of_choice(model: ModelChoice) -> str | None:
    """Say why a deployment's cache cannot be written where only the device knows."""
    if model.cache is None or not CACHES[model.cache].fixed:
        fixed = " or ".join(kind.name for kind in CACHES.values() if kind.fixed)
        return f"its position is held on the device, which needs cache {fixed}, got {model.cache}"
    return None
