"""The columns of the table of all trials: the same of every study, and of which type each is."""

from __future__ import annotations

from typing import get_args

from objectives.schema.evaluation import Memory, Stage
from variants.axes import AXES

STAGE = "seconds "  # begins the columns of what each stage took
STAGES: tuple[str, ...] = get_args(Stage)
# Types that can be missing: a column is of its type where no row has a number, too.
_TEXT, _WHOLE, _NUMBER, _FLAG = "string", "Int64", "float64", "boolean"
COLUMNS: dict[str, str] = {
    "trial": _WHOLE,  # missing: the default
    **{name: _WHOLE if axis.numeric else _TEXT for name, axis in AXES.items()},
    "outcome": _TEXT,
    "reason": _TEXT,
    **dict.fromkeys(("latency_ms", "latency_low_ms", "latency_high_ms"), _NUMBER),
    "bound": _TEXT,
    **dict.fromkeys(("gpu_ms", "host_ms"), _NUMBER),
    "held": _FLAG,
    "samples": _WHOLE,
    "stopped": _TEXT,
    **dict.fromkeys(("host_speed", "first_step_ms", "new_length_ms"), _NUMBER),
    **dict.fromkeys(Memory.model_fields, _NUMBER),
    "relative_error": _NUMBER,
    **dict.fromkeys(("roofline_ms", "roofline_share", "roofline_mib"), _NUMBER),
    **dict.fromkeys(("sm_mhz_low", "sm_mhz_high", "temperature_c"), _WHOLE),
    "clock_limits": _TEXT,
    "bursts_discarded": _WHOLE,
    "backend_ran": _TEXT,
    "drift": _NUMBER,
    "study": _TEXT,
    "device": _TEXT,
    "torch": _TEXT,
    "measured_on": _TEXT,  # host and device; missing of defaults
    "environment": _WHOLE,  # which of the study's, from 1; missing of defaults
    **{STAGE + stage: _NUMBER for stage in STAGES},
}
