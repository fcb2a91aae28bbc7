#!/usr/bin/env bash
# Version: transformers 5.23.0, torch 2.13.0 (CPU)
#
# Behaviour: `DynamicCache(config=...)`, which `generate` makes unless told otherwise, drops keys and values beyond
# `config.sliding_window` wherever a configuration without `layer_types` has such a number, also for a model whose
# masks have no window. An expert would guess that a cache only saves time, so that greedy tokens do not depend on it.
# Moshi's text decoder is such a model (`create_causal_mask`, `sliding_window` in its configuration):
#   1. the greedy tokens of `generate` beyond the window are others with the cache than with `use_cache=False`;
#   2. a `DynamicCache()` without the configuration gives those of `use_cache=False`;
#   3. with the cache, the logits of position 19 depend on token 0 where the prompt is passed at once, and do not
#      where the same tokens are passed one after another.
#
# Seen (window of 8, prompt of 4 tokens, 20 new ones):
#   transformers 5.23.0, torch 2.13.0+cpu
#   layers of DynamicCache(config=...): DynamicSlidingWindowLayer of 8, DynamicSlidingWindowLayer of 8
#   use_cache=False:       126 123 126 3 94 58 84 15 108 71 52 45 71 52 61 10 126 42 26 70
#   cache of generate:     126 123 126 3 94 58 36 58 104 90 84 57 117 97 123 90 10 33 30 97
#   DynamicCache():        126 123 126 3 94 58 84 15 108 71 52 45 71 52 61 10 126 42 26 70
#   positions whose token is another with generate's cache: 10 11 12 13 14 15 16 17 18 19 20 21 22 23
#   change of position 19 with token 0: 3.86 passed at once, 0 one by one
#   as described
#
# Exit status: 0 where that is still so, 1 where it has changed.
set -euo pipefail

temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
python3 -m venv "$temp/venv"
"$temp/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 transformers==5.23.0
cd "$temp"
CUDA_VISIBLE_DEVICES='' HF_HUB_OFFLINE=1 venv/bin/python - <<'PYTHON'
import sys

import torch
import transformers
from transformers import DynamicCache, MoshiConfig, MoshiForCausalLM

WINDOW, PROMPT, NEW = 8, 4, 20

print(f"transformers {transformers.__version__}, torch {torch.__version__}")
torch.manual_seed(0)
config = MoshiConfig(
    hidden_size=64, num_hidden_layers=2, num_attention_heads=4, ffn_dim=128, vocab_size=128,
    sliding_window=WINDOW, max_position_embeddings=64, initializer_range=0.2,
)
model = MoshiForCausalLM(config).eval()
prompt = torch.randint(0, 128, (1, PROMPT))


def generated(**how):
    options = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return model.generate(prompt, **options, **how)[0, PROMPT:].tolist()


def last_logits(tokens, passed_at_once):
    """Return the logits of the last position, with a cache made from the configuration."""
    cache = DynamicCache(config=config)
    with torch.no_grad():
        for part in tokens.split(passed_at_once, dim=1):
            output = model(part, past_key_values=cache)
    return output.logits[0, -1]


def moved(passed_at_once):
    """Return by how much the logits of position 19 change with token 0."""
    tokens = torch.arange(20)[None]
    changed = tokens.clone()
    changed[0, 0] = 100
    difference = last_logits(tokens, passed_at_once) - last_logits(changed, passed_at_once)
    return difference.abs().max().item()


layers = [(type(layer).__name__, getattr(layer, "sliding_window", None)) for layer in DynamicCache(config=config).layers]
print("layers of DynamicCache(config=...):", ", ".join(f"{name} of {window}" for name, window in layers))
without = generated(use_cache=False)
default = generated()
whole = generated(past_key_values=DynamicCache())
print("use_cache=False:      ", *without)
print("cache of generate:    ", *default)
print("DynamicCache():       ", *whole)
others = [PROMPT + index for index, pair in enumerate(zip(without, default)) if pair[0] != pair[1]]
print("positions whose token is another with generate's cache:", *others)
at_once, one_by_one = moved(20), moved(1)
print(f"change of position 19 with token 0: {at_once:.3g} passed at once, {one_by_one:.3g} one by one")

as_described = [
    all(window == WINDOW for _, window in layers),
    bool(others) and min(others) > WINDOW,
    whole == without,
    at_once > 1e-2,
    one_by_one == 0,
]
print("as described" if all(as_described) else "CHANGED")
sys.exit(not all(as_described))
PYTHON
