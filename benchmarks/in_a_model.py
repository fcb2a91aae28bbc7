"""Does a winner keep its promise inside of a model? A tiny Llama with the workload's heads.

Needs transformers: `pip install '.[hf]'`.
"""

from __future__ import annotations

import math
import random
import statistics
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from studies.export.document import Export, ExportedChoice, ExportedWorkload
from studies.study.verdicts import judge_rounds
from variants import hf, load
from variants.deploy.deployment import Deployment
from variants.deploy.dispatched_attention import DispatchWarning
from variants.deploy.loading_schema import CHOICE_OF, Pick, Prefer
from variants.workload import Phase, Workload

WARM_UP = 8  # steps of each turn that are not timed
HELD = 16  # steps that wait until all their kernels are launched
HOLD_CYCLES = 40_000_000  # some 20 ms: longer than it takes to launch two layers
SIDES = ("default", "winner")
# Of PyTorch's own, those beside which tokens are compared: for half precision, and for fp32.
KERNELS = (
    (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION),
    (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH),
)


def promised(
    document: Export, pick: Pick, prefer: Prefer
) -> tuple[ExportedWorkload, ExportedChoice]:
    """Return the first decode workload that a Llama computes, and what is chosen for it."""
    name = CHOICE_OF[prefer]
    for of in document.workloads:
        choice = of.choices.get(name)
        if pick == "single":
            chosen = {c.configuration.workload: c for c in document.single[name].choices}
            choice = chosen.get(of.workload)
        if choice and of.workload.phase is Phase.DECODE and of.workload.score_mod == "none":
            return of, choice
    raise typer.BadParameter("there is no winner of decoding without a score_mod")


def llama(workload: Workload, layers: int, dtype: torch.dtype, device: str) -> nn.Module:
    """Return a Llama of random weights with a workload's heads, and next to nothing beside."""
    config = transformers.LlamaConfig(
        vocab_size=256,
        hidden_size=workload.q_heads * workload.head_dim,
        intermediate_size=256,
        num_hidden_layers=layers,
        num_attention_heads=workload.q_heads,
        num_key_value_heads=workload.kv_heads,
        head_dim=workload.head_dim,
        initializer_range=0.05,
        max_position_embeddings=2 * workload.seq_len + 1024,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    model: nn.Module = transformers.LlamaForCausalLM(config)
    return model.eval().to(device=device, dtype=dtype)


@contextmanager
def attention_timed(model: nn.Module) -> Iterator[list[tuple[Any, Any]]]:
    """Yield a list to which each call of an attention module adds its begin and end."""
    marks: list[tuple[Any, Any]] = []
    begun: list[Any] = []
    handles = []
    for module in model.modules():
        if hasattr(module, "q_proj"):
            handles.append(module.register_forward_pre_hook(lambda *_: begun.append(_mark())))
            handles.append(
                module.register_forward_hook(lambda *_: marks.append((begun.pop(), _mark())))
            )
    try:
        yield marks
    finally:
        for handle in handles:
            handle.remove()


def _mark() -> Any:
    if not torch.cuda.is_available():
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _ms(begin: Any, end: Any) -> float:
    return 1e3 * float(end - begin) if isinstance(begin, float) else float(begin.elapsed_time(end))


@dataclass(frozen=True, slots=True)
class Decoded:
    """What attention takes of decode steps: the median of a layer and step."""

    ms: float  # from its first kernel to its last, as the host launches them
    gpu_ms: float  # the same where all had been launched before; NaN on a CPU
    peak_mib: float  # beside the model; NaN on a CPU


def decode(model: Any, ids: torch.Tensor, cache: object, tokens: int) -> Decoded:
    """Decode behind a prompt, first as it comes and then with each step held back."""
    cuda, layers = ids.device.type == "cuda", model.config.num_hidden_layers
    given: dict[str, Any] = {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
    with torch.inference_mode():
        before = torch.cuda.memory_allocated() if cuda else 0
        token = model(ids, **given).logits[:, -1:].argmax(-1)
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()

        def steps(count: int, hold: bool) -> float:
            nonlocal token
            with attention_timed(model) as marks:
                for _ in range(WARM_UP + count):
                    if hold:
                        torch.cuda.synchronize()
                        torch.cuda._sleep(HOLD_CYCLES)
                    token = model(token, **given).logits[:, -1:].argmax(-1)
                if cuda:
                    torch.cuda.synchronize()
            return statistics.median(_ms(*mark) for mark in marks[WARM_UP * layers :])

        ms = steps(tokens, hold=False)
        peak = (torch.cuda.max_memory_allocated() - before) / 2**20 if cuda else math.nan
        return Decoded(ms, steps(HELD, hold=True) if cuda else math.nan, peak)


class Sides:
    """A model whose attention is the default's or the winner's."""

    def __init__(self, loaded: Deployment, workload: Workload, layers: int, tokens: int) -> None:
        kind = loaded.device.kind
        self.model: Any = llama(workload, layers, loaded.dtype, kind)
        self.ids = torch.randint(2, 256, (workload.batch, workload.seq_len), device=kind)
        self.tokens = tokens
        self._loaded, self._capacity = loaded, workload.seq_len + tokens + HELD + 2 * WARM_UP + 1
        self._names = {"default": "sdpa", "winner": hf.register(loaded)}

    def take(self, side: str) -> object:
        """Make a side's attention the model's, and return an empty cache of its kind."""
        self.model.set_attn_implementation(self._names[side])
        config = self.model.config
        if side == "default":
            return transformers.DynamicCache(config=config)
        return hf.past_key_values(self._loaded, config, capacity=self._capacity)

    def generated(self, side: str, *kernels: SDPBackend) -> torch.Tensor:
        """Return what `generate` answers greedily; the default on certain kernels, if given."""
        given: dict[str, Any] = {"do_sample": False, "max_new_tokens": self.tokens}
        given["attention_mask"] = torch.ones_like(self.ids)
        with sdpa_kernel(list(kernels)) if kernels else nullcontext():
            out = self.model.generate(self.ids, past_key_values=self.take(side), **given)
        tokens: torch.Tensor = out
        return tokens

    def decode(self, side: str) -> Decoded:
        """Decode with a side's attention and an empty cache."""
        return decode(self.model, self.ids, self.take(side), self.tokens)


def say_tokens(sides: Sides) -> None:
    """Print how many sequences end in the same tokens, and what rounding alone does to them."""
    default = sides.generated("default")

    def same(other: torch.Tensor) -> str:
        found = int((default == other).all(dim=1).sum())
        return f"{found} of {len(default)} sequences have the same {sides.tokens} tokens"

    print(f"{same(sides.generated('winner'))} with default and winner")
    for kernel in KERNELS[sides.model.dtype is torch.float32]:
        try:
            other = sides.generated("default", kernel)
        except RuntimeError as error:
            if "No available kernel" not in str(error) and "No viable backend" not in str(error):
                raise
            print(f"  {kernel.name} declines")  # as the efficient one does grouped heads
        else:
            print(f"  {same(other)} with default and {kernel.name}")


def main(
    path: Annotated[Path, typer.Argument(help="What `search export --execution eager` wrote.")],
    pick: Annotated[Pick, typer.Option()] = "dispatch",
    prefer: Annotated[Prefer, typer.Option()] = "balanced",
    layers: int = 2,
    tokens: int = 64,
    rounds: int = 7,
) -> None:
    """Generate with the default and with a winner, and time their attention in turns."""
    document = Export.model_validate_json(path.read_text())
    of, choice = promised(document, pick, prefer)
    variant, default = choice.configuration.variant, of.default
    loaded = load(path, pick=pick, prefer=prefer, device=document.environment.device.kind)
    print(f"{of.workload.key}: {variant.key} against {default.configuration.variant.key}")
    # Prompts, and lengths beyond the measured ones, are none of what is compared.
    warnings.simplefilter("ignore", DispatchWarning)
    sides = Sides(loaded, of.workload, layers, tokens)
    say_tokens(sides)

    taken: dict[str, list[Decoded]] = {side: [] for side in SIDES}
    rng = random.Random(0)
    for _ in range(rounds):
        for side in rng.sample(SIDES, len(SIDES)):
            taken[side].append(sides.decode(side))
    times = {side: [one.ms for one in each] for side, each in taken.items()}
    gpu_times = {side: [one.gpu_ms for one in each] for side, each in taken.items()}
    peaks = {side: statistics.median(one.peak_mib for one in each) for side, each in taken.items()}
    for side, one in (("default", default.measurements), ("winner", choice.measurements)):
        assert one is not None
        gpu = "" if one.latency.gpu is None else f" (GPU {one.latency.gpu.value:.4f})"
        print(
            f"{side}, as a layer: {one.latency.latency_ms:.4f} ms{gpu}, {one.memory.peak_mib:.1f} "
            f"MiB; in the model: {statistics.median(times[side]):.4f} ms a layer (GPU "
            f"{statistics.median(gpu_times[side]):.4f}), {peaks[side]:.1f} MiB beside the model"
        )
    timed = None if of.finals is None else of.finals.of(variant.key)
    verdicts = [
        ("promised by the finals", None if timed is None else timed.latency),
        ("in the model", judge_rounds(times["winner"], times["default"])),
        ("GPU time, promised by the finals", None if timed is None else timed.gpu),
    ]
    if loaded.device.kind == "cuda":
        found = judge_rounds(gpu_times["winner"], gpu_times["default"])
        verdicts.append(("GPU time, in the model", found))
    for name, verdict in verdicts:
        if verdict is not None:
            print(f"{name}: x {verdict.ratio:.3f} ({verdict.low:.3f} to {verdict.high:.3f})")
    print(
        f"peak memory: promised x {choice.memory_vs_default:.3f}, in the model "
        f"x {peaks['winner'] / peaks['default']:.3f}"
    )


if __name__ == "__main__":
    typer.run(main)
