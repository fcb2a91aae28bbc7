#!/usr/bin/env bash
# Version: transformers 5.23.0, torch 2.13.0 (CPU)
#
# Behaviour: a name registered with `AttentionInterface` is accepted as `attn_implementation` by every model class,
# also by one whose layers never look a registered attention up. An expert would guess that BLOOM refuses it, as it
# refuses "sdpa" and "flash_attention_2" with a ValueError, and as its class says
# `_supports_attention_backend = False`. Instead:
#   1. the model loads, says that it uses the registered attention, and never calls it;
#   2. it does call the mask function registered under that name with `AttentionMaskInterface`. Where that returns
#      None, as an attention that is causal by itself has it do, BLOOM's own attention runs without any mask: the
#      logits of the first token change when the last token does;
#   3. nothing is logged, warned or raised.
# The same pair of functions in Llama is called, and causal (shown as a control).
#
# Seen ("moved" is the largest change of the first token's logits when the last of 8 tokens is changed):
#   transformers 5.23.0, torch 2.13.0+cpu
#   BloomForCausalLM, _supports_attention_backend = False
#     eager: moved 0, registered attention called 0 times, 0 messages
#     sdpa: ValueError
#     flash_attention_2: ValueError
#     causal_by_itself: moved 2.72, registered attention called 0 times, 0 messages
#   LlamaForCausalLM, _supports_attention_backend = True
#     eager: moved 0, registered attention called 0 times, 0 messages
#     causal_by_itself: moved 0, registered attention called 4 times, 0 messages
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
import logging
import sys
import tempfile
import warnings

import torch
import transformers
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM
from transformers import BloomConfig, BloomForCausalLM, LlamaConfig, LlamaForCausalLM

NAME = "causal_by_itself"
calls, logged = [], []


def attention(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """Compute causal attention of a prompt without a mask, as flash attention does."""
    calls.append(module)
    output = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    return output.transpose(1, 2).contiguous(), None


def no_mask(*args, **kwargs):
    return None


class Logged(logging.Handler):
    def emit(self, record):
        logged.append(record.getMessage())


def loaded(folder, implementation):
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation=implementation).eval()


def moved(model):
    """Return by how much the first token's logits change with the last token."""
    tokens = torch.arange(8)[None]
    changed = tokens.clone()
    changed[0, -1] = 100
    with torch.no_grad():
        return (model(tokens).logits[0, 0] - model(changed).logits[0, 0]).abs().max().item()


def tried(folder, implementation):
    """Load and run a model; return (moved, calls, messages), and print them."""
    calls.clear()
    logged.clear()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        model = loaded(folder, implementation)
        by = moved(model)
    assert model.config._attn_implementation == implementation
    messages = [*logged, *(str(warning.message) for warning in warned)]
    print(f"  {implementation}: moved {by:.3g}, registered attention called {len(calls)} times,", end="")
    print(f" {len(messages)} messages", *messages)
    return by, len(calls), len(messages)


def refused(folder, implementation):
    try:
        loaded(folder, implementation)
    except ValueError:
        print(f"  {implementation}: ValueError")
        return True
    print(f"  {implementation}: accepted")
    return False


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, no_mask)
transformers.utils.logging.disable_progress_bar()
logging.getLogger("transformers").addHandler(Logged())
print(f"transformers {transformers.__version__}, torch {torch.__version__}")
torch.manual_seed(0)
bloom = BloomForCausalLM(
    BloomConfig(hidden_size=64, n_layer=2, n_head=4, vocab_size=128, initializer_range=0.2)
)
llama = LlamaForCausalLM(
    LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        vocab_size=128, initializer_range=0.2,
    )
)

as_described = []
with tempfile.TemporaryDirectory() as folder:
    bloom.save_pretrained(folder)
    print(f"BloomForCausalLM, _supports_attention_backend = {bloom._supports_attention_backend}")
    by, _, _ = tried(folder, "eager")
    as_described += [by < 1e-5, refused(folder, "sdpa"), refused(folder, "flash_attention_2")]
    by, called, messages = tried(folder, NAME)
    as_described += [by > 1e-2, called == 0, messages == 0]
with tempfile.TemporaryDirectory() as folder:
    llama.save_pretrained(folder)
    print(f"LlamaForCausalLM, _supports_attention_backend = {llama._supports_attention_backend}")
    by, _, _ = tried(folder, "eager")
    as_described.append(by < 1e-5)
    by, called, _ = tried(folder, NAME)
    as_described += [by < 1e-5, called == 4]  # two layers, two prompts

print("as described" if all(as_described) else "CHANGED")
sys.exit(not all(as_described))
PYTHON
