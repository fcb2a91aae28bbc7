"""What is a captured winner worth in a whole model? Milliseconds a token of `generate`, in turns.

Transformers' default, ours captured, compiled before or not, ours launched one by one, and a
graph of the same kernels that is written by hand. Needs transformers: `pip install '.[hf]'`.
"""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import transformers
import typer
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.masking_utils import AttentionMaskInterface

from objectives.in_model.generating import take_turn
from variants import hf
from variants.configuration import Configuration
from variants.deploy.deployment import Deployment
from variants.deploy.dispatched_attention import DispatchWarning
from variants.deploy.model_choice import ModelChoice
from variants.detect import detect_device
from variants.workload import Workload

ROOM = 64  # slots of a hand-made cache behind the prompt
KERNELS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "math": SDPBackend.MATH,
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a Llama."""

    layers: int
    hidden: int
    intermediate: int
    q_heads: int
    kv_heads: int
    vocabulary: int

    @property
    def head_dim(self) -> int:
        """Of a head."""
        return self.hidden // self.q_heads


LLAMA_8B = Sizes(32, 4096, 14336, 32, 8, 32000)
TINY = Sizes(2, 256, 512, 8, 2, 512)


def llama(sizes: Sizes, dtype: torch.dtype, device: str) -> Any:
    """Return a Llama of random weights that never ends by itself."""
    config = transformers.LlamaConfig(
        hidden_size=sizes.hidden,
        intermediate_size=sizes.intermediate,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.q_heads,
        num_key_value_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        vocab_size=sizes.vocabulary,
        max_position_embeddings=65536,
        pad_token_id=0,
        bos_token_id=1,
    )
    config.eos_token_id = None
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = transformers.LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.generation_config.eos_token_id = None
    return model.eval()


def deployed(
    sizes: Sizes, batch: int, prompt: int, words: str, new: int, device: str
) -> Deployment:
    """Return what an export of `cudnn bf16 static cuda_graph` for this workload would load."""
    backend, precision, cache, execution = words.split()
    found = []
    for phase in ("decode", "prefill"):
        workload = Workload.model_validate(
            {"phase": phase, "batch": batch, "seq_len": prompt, "new_tokens": new}
            | {"q_heads": sizes.q_heads, "kv_heads": sizes.kv_heads}
            | {"head_dim": sizes.head_dim, "hidden_size": sizes.hidden}
        )
        chosen = {"backend": backend, "precision": precision, "cache": cache}
        if phase == "decode" and device == "cuda":
            chosen["execution"] = execution
        found.append(Configuration.of(workload, chosen))
    kind: Any = device
    choice = ModelChoice.of(found[0].variant)
    return Deployment(found, choice, detect_device(kind), f"{batch}x{prompt}")


class HandMade:
    """A static cache, one SDPA kernel with a mask of lengths on the device, one graph."""

    def __init__(self, model: Any, sizes: Sizes, ids: Tensor, backend: str) -> None:
        """Allocate for a prompt and `ROOM` tokens."""
        self._model, self._ids, self._kernel = model, ids, KERNELS[backend]
        batch, prompt = ids.shape
        self._capacity, device = prompt + ROOM, ids.device
        shape = (batch, sizes.kv_heads, self._capacity, sizes.head_dim)
        made = partial(torch.zeros, shape, dtype=model.dtype, device=device)
        self._planes = [(made(), made()) for _ in range(sizes.layers)]
        self._position = torch.zeros(1, dtype=torch.long, device=device)
        self._mask = torch.zeros(1, 1, 1, self._capacity, dtype=torch.bool, device=device)
        self._columns = torch.arange(self._capacity, device=device)
        self._token = torch.zeros(batch, 1, dtype=torch.long, device=device)
        transformers.AttentionInterface.register("hand_made", self._attend)
        AttentionMaskInterface.register("hand_made", lambda *_, **__: None)

    def _attend(self, module: Any, q: Tensor, k: Tensor, v: Tensor, *_: Any, **given: Any) -> Any:
        key, value = self._planes[module.layer_idx]
        same: dict[str, Any] = {"scale": given.get("scaling"), "enable_gqa": True}
        with sdpa_kernel(self._kernel):
            if q.shape[2] > 1:
                key[:, :, : q.shape[2]], value[:, :, : q.shape[2]] = k, v
                out = F.scaled_dot_product_attention(q, k, v, is_causal=True, **same)
            else:
                key.index_copy_(2, self._position, k)
                value.index_copy_(2, self._position, v)
                mask = self._mask.expand(len(q), 1, 1, self._capacity)
                out = F.scaled_dot_product_attention(q, key, value, attn_mask=mask, **same)
        return out.transpose(1, 2).contiguous(), None

    def _step(self) -> None:
        self._mask.copy_((self._columns <= self._position).view(1, 1, 1, -1))
        positions = self._position.expand(len(self._token), 1)
        logits = self._model(self._token, position_ids=positions, use_cache=False).logits
        self._token.copy_(logits[:, -1:].argmax(-1))
        self._position.add_(1)

    @torch.no_grad()
    def ms_a_token(self, new: int) -> float:
        """Capture, and replay `new` steps."""
        self._model.set_attn_implementation("hand_made")
        batch, prompt = self._ids.shape
        positions = torch.arange(prompt, device=self._ids.device).expand(batch, prompt)
        given = {"position_ids": positions, "use_cache": False, "logits_to_keep": 1}
        self._token.copy_(self._model(self._ids, **given).logits[:, -1:].argmax(-1))
        self._position.fill_(prompt)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        self._position.fill_(prompt)
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(new):
            graph.replay()
        torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - begin) / new


@dataclass(slots=True)
class Taken:
    """What the turns of one way have given."""

    ms: list[float] = field(default_factory=list)
    peak_gib: float = math.nan  # beside the weights
    tokens: Tensor | None = None


def turn(
    model: Any, ids: Tensor, new: int, taken: Taken, cache: Callable[[], Any] | None
) -> float:
    """Take one turn, and return the seconds of its first answer."""
    found = take_turn(
        model, ids, new, dict if cache is None else lambda: {"past_key_values": cache()}
    )
    taken.ms.append(found.ms)
    taken.tokens = found.tokens
    if found.peak_bytes is not None:
        weights = sum(weight.nbytes for weight in model.parameters())
        taken.peak_gib = (found.peak_bytes - weights) / 2**30
    return found.first_s


def captured_turn(
    model: Any,
    loaded: Deployment,
    capacity: int,
    ids: Tensor,
    new: int,
    taken: Taken,
    *,
    compiled: bool = False,
    turns: int = 1,
) -> dict[int, tuple[int, ...]]:
    """Capture, take turns, and free all again; return for which ranges there were steps."""
    with hf.capture_decoding(model, loaded, capacity=capacity, compiled=compiled) as ours:
        first_s = turn(model, ids, new, taken, None)
        print(f"  first answer, captures included: {first_s:.1f} s", flush=True)
        for _ in range(turns - 1):
            turn(model, ids, new, taken, None)
        return ours.ranges


def say(title: str, ways: dict[str, Taken], first: str) -> None:
    """Print a line for each way."""
    print(title, flush=True)
    base, tokens = statistics.median(ways[first].ms), ways[first].tokens
    for name, taken in ways.items():
        same = ""
        if taken.tokens is not None and tokens is not None:
            agree = int((taken.tokens[:, :8] == tokens[:, :8]).all(dim=1).sum())
            same = f"; first 8 tokens are those of {first} in {agree} of {len(tokens)}"
        turns = ", ".join(f"{ms:.2f}" for ms in taken.ms)
        ms = statistics.median(taken.ms)
        print(
            f"  {name:24s} {ms:7.2f} ms a token ({turns}), x {base / ms:.2f}; peak beside weights "
            f"{taken.peak_gib:.2f} GiB{same}",
            flush=True,
        )


def compare(model: Any, sizes: Sizes, ids: Tensor, new: int, rounds: int, words: str) -> None:
    """Time default, ours captured and ours launched one by one in turns, the rest behind them.

    Behind them, since it is compiled or captured once for all of its turns.
    """
    batch, prompt = ids.shape
    loaded = deployed(sizes, batch, prompt, words, new, ids.device.type)
    name, capacity = hf.register(loaded), prompt + ROOM
    model.set_attn_implementation(name)
    cuda = ids.device.type == "cuda"
    ways = {way: Taken() for way in ("default", "captured", "launched one by one")}
    rng = random.Random(0)

    def eager() -> Any:
        return hf.past_key_values(loaded, model.config, capacity)

    ranges: dict[int, tuple[int, ...]] = {}
    for _ in range(rounds):
        for way in rng.sample(list(ways), len(ways)):
            model.set_attn_implementation("sdpa" if way == "default" else name)
            if way == "captured":
                ranges = captured_turn(model, loaded, capacity, ids, new, ways[way])
            else:
                turn(model, ids, new, ways[way], None if way == "default" else eager)
    model.set_attn_implementation(name)
    ways["compiled, then captured"] = Taken()
    captured_turn(
        model,
        loaded,
        capacity,
        ids,
        new,
        ways["compiled, then captured"],
        compiled=True,
        turns=rounds,
    )
    if cuda and words.split()[0] in KERNELS:
        gc.collect()
        torch.cuda.empty_cache()
        by_hand = HandMade(model, sizes, ids, words.split()[0])
        ways["hand-made graph"] = Taken([by_hand.ms_a_token(new) for _ in range(rounds)])
    say(f"batch {batch}, prompt {prompt}, {words}; steps for {ranges}", ways, "default")


def part_filled(model: Any, sizes: Sizes, ids: Tensor, new: int, rounds: int, words: str) -> None:
    """Time a capacity that is just enough beside one of 16 times as much, in turns."""
    batch, prompt = ids.shape
    loaded = deployed(sizes, batch, prompt, words, new, ids.device.type)
    model.set_attn_implementation(hf.register(loaded))
    ways = {f"capacity {prompt + ROOM}": Taken(), f"capacity {16 * prompt}": Taken()}
    for _ in range(rounds):
        for way, capacity in zip(ways, (prompt + ROOM, 16 * prompt), strict=True):
            captured_turn(model, loaded, capacity, ids, new, ways[way])
    say(f"batch {batch}, {prompt} tokens filled, {words}", ways, next(iter(ways)))


def main(
    words: Annotated[str, typer.Option(help="Backend, precision, cache, execution.")] = (
        "cudnn bf16 static cuda_graph"
    ),
    new: Annotated[int, typer.Option(help="Tokens of an answer.")] = 48,
    rounds: int = 3,
    layers: int = LLAMA_8B.layers,
    tiny: Annotated[bool, typer.Option(help="To see that it works, on a CPU.")] = False,
) -> None:
    """Print milliseconds a token for batch 8 and 1, and for a capacity that is not full."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = TINY if tiny else Sizes(layers, *(getattr(LLAMA_8B, name) for name in _BESIDE))
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(words.split()[1], torch.float32)
    warnings.simplefilter("ignore", DispatchWarning)  # lengths beyond the workload's
    model = llama(sizes, dtype, device)
    where = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{where}, torch {torch.__version__}, transformers {transformers.__version__}; {sizes}")
    prompts = ((2, 64), (1, 32)) if tiny else ((8, 8192), (1, 2048))
    for batch, prompt in prompts:
        ids = torch.randint(10, sizes.vocabulary, (batch, prompt), device=device)
        compare(model, sizes, ids, new, rounds, words)
        gc.collect()
    ids = torch.randint(10, sizes.vocabulary, prompts[1], device=device)
    part_filled(model, sizes, ids, new, rounds, words)
    ids = torch.randint(10, sizes.vocabulary, (prompts[0][0], prompts[1][1]), device=device)
    part_filled(model, sizes, ids, new, rounds, words)


_BESIDE = ("hidden", "intermediate", "q_heads", "kv_heads", "vocabulary")

if __name__ == "__main__":
    typer.run(main)
