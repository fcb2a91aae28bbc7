"""What attention and cache cost the host a layer: ours beside transformers' own, in turns.

Decode steps of a Llama whose tensors are so small that what is timed is launching. Both compute
by the same kernel. Needs transformers: `pip install '.[hf]'`.
"""

from __future__ import annotations

import cProfile
import gc
import pstats
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import transformers
import typer
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.cache_utils import DynamicCache

from variants import hf
from variants.configuration import Configuration
from variants.deploy.deployment import Deployment
from variants.deploy.model_choice import ModelChoice
from variants.detect import detect_device
from variants.workload import Workload

LAYERS, STEPS, PROMPT = 8, 25, 8
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 64
KERNELS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "math": SDPBackend.MATH,
}


@dataclass(frozen=True, slots=True)
class Way:
    """An attention by its name, and what makes its cache."""

    attention: str
    cache: Callable[[], Any]


class Loop:
    """Decode steps of attention and cache alone, called as a Llama's layers call them."""

    def __init__(self, dtype: torch.dtype, device: str) -> None:
        """Build the layers and their inputs."""
        self.config = transformers.LlamaConfig(
            hidden_size=HEADS * HEAD_DIM,
            intermediate_size=64,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=KV_HEADS,
            vocab_size=32,
        )
        self.config._attn_implementation = "sdpa"
        with torch.device("meta"):
            model: Any = transformers.LlamaForCausalLM(self.config).eval()
        self._layers = [layer.self_attn for layer in model.model.layers]
        self._dtype, self._device = dtype, device
        self._positions = torch.zeros(1, 1, dtype=torch.long, device=device)

    def _some(self, heads: int, tokens: int) -> Tensor:
        return torch.randn(1, tokens, heads, HEAD_DIM, dtype=self._dtype, device=self._device)

    def microseconds(self, way: Way, profile: cProfile.Profile | None = None) -> float:
        """Return the host's time a layer of `STEPS` decode steps behind a short prompt."""
        attend = transformers.AttentionInterface()[way.attention]
        cache = way.cache()
        self._step(attend, cache, PROMPT)
        self._step(attend, cache, 1)
        if self._device == "cuda":
            torch.cuda.synchronize()
        gc.collect()
        gc.disable()
        if profile is not None:
            profile.enable()
        begin = time.thread_time_ns()
        for _ in range(STEPS):
            self._step(attend, cache, 1)
        spent = time.thread_time_ns() - begin
        if profile is not None:
            profile.disable()
        gc.enable()
        return spent / 1e3 / STEPS / LAYERS

    def _step(self, attend: Any, cache: Any, tokens: int) -> None:
        query = self._some(HEADS, tokens).transpose(1, 2)
        new = self._some(KV_HEADS, tokens).transpose(1, 2)
        for index, layer in enumerate(self._layers):
            key, value = cache.update(new, new, index)
            attend(
                layer,
                query,
                key,
                value,
                None,
                dropout=0.0,
                scaling=layer.scaling,
                position_ids=self._positions,
                use_cache=True,
            )


def deployed(words: str, device: Any) -> Deployment:
    """Return what a search would have exported for the loop's heads."""
    backend, precision, cache = words.split()
    found = []
    for phase in ("decode", "prefill"):
        workload = Workload.model_validate(
            {"phase": phase, "batch": 1, "seq_len": PROMPT, "new_tokens": 2 * STEPS}
            | {"q_heads": HEADS, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM}
        )
        chosen = {"backend": backend, "precision": precision, "cache": cache}
        found.append(Configuration.of(workload, chosen))
    choice = ModelChoice.of(found[0].variant)
    return Deployment(found, choice, detect_device(device), f"host_{cache}")


def compare(words: str, rounds: int, device: str, profile: int = 0) -> float:
    """Print both times and return the median of their ratios, ours over transformers'."""
    loaded = deployed(words, device)
    loop = Loop(loaded.dtype, device)
    ours = Way(
        hf.register(loaded),
        lambda: hf.past_key_values(loaded, loop.config, PROMPT + STEPS + 1),
    )
    theirs = Way("sdpa", lambda: DynamicCache(config=loop.config))
    forced = KERNELS[words.split()[0]]
    taken: list[tuple[float, float]] = []

    def their_time() -> float:
        with sdpa_kernel(forced):  # once for the whole loop
            return loop.microseconds(theirs)

    for index in range(rounds):
        if index % 2:
            first = their_time()
            taken.append((loop.microseconds(ours), first))
        else:
            taken.append((loop.microseconds(ours), their_time()))
    ratio = statistics.median(own / other for own, other in taken)
    best = [min(times) for times in zip(*taken, strict=True)]
    medians = [statistics.median(times) for times in zip(*taken, strict=True)]
    print(
        f"{words:24s} ours {medians[0]:6.1f} µs a layer (least {best[0]:.1f}), transformers' "
        f"{medians[1]:6.1f} (least {best[1]:.1f}); ratio {ratio:.2f} (of the least "
        f"{best[0] / best[1]:.2f})",
        flush=True,
    )
    if profile:
        seen = cProfile.Profile()
        for _ in range(10):
            loop.microseconds(ours, seen)
        pstats.Stats(seen).sort_stats("tottime").print_stats(profile)
    return ratio


def main(
    words: Annotated[list[str] | None, typer.Option(help="Backend, precision, cache.")] = None,
    rounds: Annotated[int, typer.Option(help="Turns of each.")] = 60,
    profile: Annotated[int, typer.Option(help="Lines of a profile of ours.")] = 0,
) -> None:
    """Print the host time a layer for each kernel and cache."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kernels = ("cudnn", "efficient", "flash", "math") if device == "cuda" else ("flash", "math")
    precision = "bf16" if device == "cuda" else "fp32"
    asked = words or [f"{k} {precision} {c}" for k in kernels for c in ("static", "concat")]
    where = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{where}, torch {torch.__version__}, transformers {transformers.__version__}")
    torch.set_num_threads(1)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for each in asked:
            compare(each, rounds, device, profile)


if __name__ == "__main__":
    typer.run(main)
