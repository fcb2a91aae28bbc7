"""What comes of a kernel that cannot be had: refused with its reason, not a crash."""

from __future__ import annotations

import pytest

import objectives.trial.evaluator as evaluate_module
from objectives.schema.evaluation import Outcome
from objectives.schema.limits import Limits
from objectives.trial.evaluator import Evaluator
from objectives.trial.outcomes import outcome_of_error
from tests.configurations import configured
from variants.detect import detect_device
from variants.workload import Workload

# As Inductor says it of Triton's lack of shared memory (torch 2.11).
OUT_OF_RESOURCE = (
    "RuntimeError: No valid triton configs. OutOfMemoryError: out of resource: "
    "triton_tem_fused__to_copy_flex_attention_0 Required: 327680 Hardware limit:232448 "
    "Reducing block sizes or `num_stages` may help.\n\nSet TORCHDYNAMO_VERBOSE=1 for the ..."
)


class OutOfResources(Exception):
    """Triton's own is no RuntimeError."""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError(OUT_OF_RESOURCE), "the kernel needs 327680 bytes of shared memory, a mult"),
        (
            OutOfResources(
                "out of resource: shared memory, Required: 131072, Hardware limit: 101376. "
                "Reducing block sizes or `num_stages` may help."
            ),
            "the kernel needs 131072 bytes of shared memory, a multiprocessor has 101376",
        ),
        (
            RuntimeError(
                "LoweringException: RuntimeError: BACKEND='FLASH' but flash attention cannot be "
                "used: CUTE flash attention library is not available"
            ),
            "LoweringException: RuntimeError: BACKEND='FLASH'",
        ),
        (
            RuntimeError(
                "LoweringException: RuntimeError: BACKEND='TRITON_DECODE' was specified but "
                "flex_decoding cannot be used for this input."
            ),
            "LoweringException: RuntimeError: BACKEND='TRITON_DECODE'",
        ),
        (
            RuntimeError(
                "LoweringException: NoValidChoicesError: No choices to select. Provided reason: "
            ),
            "LoweringException: NoValidChoicesError",
        ),
        (AssertionError("SplitKV not supported on SM 9.0"), "SplitKV not supported on SM 9.0"),
    ],
)
def test_a_kernel_that_does_not_fit_is_refused(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> object:
        raise error

    monkeypatch.setattr(evaluate_module, "visit_first", fail)
    of = configured(Workload(batch=1, seq_len=20, q_heads=2, head_dim=16), "math fp32 static")
    found = Evaluator(detect_device("cpu"), Limits(sampling_s=0.01), seed=0).evaluate(of)
    assert found.outcome is Outcome.REFUSED
    assert found.reason.startswith(reason)
    assert "\n" not in found.reason


def test_what_nobody_knows_is_the_callers_to_record() -> None:
    assert outcome_of_error(RuntimeError("illegal memory access")) is None
