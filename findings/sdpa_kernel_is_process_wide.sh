#!/usr/bin/env bash
# Version: torch 2.13.0 (CPU)
#
# Behaviour: `torch.nn.attention.sdpa_kernel` sets and restores one setting of the whole process. An expert would
# guess that it belongs to the thread that entered it, as `torch.no_grad` and `torch.autocast` do. Where two threads
# are in contexts of different backends at the same time:
#   1. the thread that entered first computes with the other thread's backend, inside of its own context;
#   2. when the first thread leaves, the restriction of the second is lifted, inside of its own context;
#   3. the second restores what it found on entering, so after both have left, all threads of the process stay
#      restricted to the first one's backend, without a warning.
# A context that no other thread interrupts does what its name says (shown as a control).
#
# Seen:
#   torch 2.13.0+cpu
#   before: enabled FLASH_ATTENTION EFFICIENT_ATTENTION CUDNN_ATTENTION MATH, ran FLASH_ATTENTION
#   alone: in FLASH_ATTENTION ran FLASH_ATTENTION, in MATH ran MATH
#   FLASH_ATTENTION, then MATH:
#     first thread, in FLASH_ATTENTION: ran MATH
#     second thread, in MATH, after the first left: ran FLASH_ATTENTION
#     after both left: enabled FLASH_ATTENTION, main thread ran FLASH_ATTENTION
#   MATH, then FLASH_ATTENTION:
#     first thread, in MATH: ran FLASH_ATTENTION
#     second thread, in FLASH_ATTENTION, after the first left: ran FLASH_ATTENTION
#     after both left: enabled MATH, main thread ran MATH
#   as described
#
# Exit status: 0 where that is still so, 1 where it has changed.
set -euo pipefail

temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
python3 -m venv "$temp/venv"
"$temp/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$temp"
CUDA_VISIBLE_DEVICES='' venv/bin/python - <<'PYTHON'
import sys
import threading

import torch
from torch.backends import cuda
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.profiler import ProfilerActivity, profile

FLASH, MATH = SDPBackend.FLASH_ATTENTION, SDPBackend.MATH
SWITCHES = {
    "FLASH_ATTENTION": (cuda.flash_sdp_enabled, cuda.enable_flash_sdp),
    "EFFICIENT_ATTENTION": (cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp),
    "CUDNN_ATTENTION": (cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp),
    "MATH": (cuda.math_sdp_enabled, cuda.enable_math_sdp),
}
KERNELS = {
    "aten::_scaled_dot_product_flash_attention_for_cpu": "FLASH_ATTENTION",
    "aten::_scaled_dot_product_attention_math": "MATH",
}


def enabled():
    return [name for name, (is_enabled, _) in SWITCHES.items() if is_enabled()]


def ran():
    """Name the backend that computes attention in this thread now."""
    query = torch.randn(1, 4, 64, 32)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        scaled_dot_product_attention(query, query, query)
    (name,) = {KERNELS[event.key] for event in profiled.key_averages() if event.key in KERNELS}
    return name


def interleaved(first, second):
    """Name what two threads computed with: first enters, second enters, first leaves, second leaves."""
    turn, seen = threading.Barrier(2, timeout=60), {}

    def run_first():
        with sdpa_kernel(first):
            turn.wait()  # first is in
            turn.wait()  # second is in
            seen["first"] = ran()
        turn.wait()  # first is out

    def run_second():
        turn.wait()  # first is in
        with sdpa_kernel(second):
            turn.wait()  # second is in
            turn.wait()  # first is out
            seen["second"] = ran()

    threads = [threading.Thread(target=run_first), threading.Thread(target=run_second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen["first"], seen["second"]


print("torch", torch.__version__)
usual, usually_ran = enabled(), ran()
print(f"before: enabled {' '.join(usual)}, ran {usually_ran}")
with sdpa_kernel(FLASH):
    flash_alone = ran()
with sdpa_kernel(MATH):
    math_alone = ran()
print(f"alone: in FLASH_ATTENTION ran {flash_alone}, in MATH ran {math_alone}")
as_described = [flash_alone == "FLASH_ATTENTION", math_alone == "MATH", enabled() == usual]
as_described += [set(usual) == set(SWITCHES), usually_ran == "FLASH_ATTENTION"]

for first, second in ((FLASH, MATH), (MATH, FLASH)):
    first_ran, second_ran = interleaved(first, second)
    left, main_ran = enabled(), ran()
    print(f"{first.name}, then {second.name}:")
    print(f"  first thread, in {first.name}: ran {first_ran}")
    print(f"  second thread, in {second.name}, after the first left: ran {second_ran}")
    print(f"  after both left: enabled {' '.join(left)}, main thread ran {main_ran}")
    as_described += [first_ran == second.name, second_ran == usually_ran]
    as_described += [left == [first.name], main_ran == first.name]
    for _, enable in SWITCHES.values():
        enable(True)

print("as described" if all(as_described) else "CHANGED")
sys.exit(not all(as_described))
PYTHON
