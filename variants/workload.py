"""The workload: what must be computed, whichever way it is computed."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from variants.score_mods import ScoreModChain, parse_score_mod


class Phase(StrEnum):
    """What the layer is doing."""

    PREFILL = "prefill"  # the whole prompt in one step
    DECODE = "decode"  # one new token a step, after `seq_len` tokens of context
    TRAIN = "train"  # forward and backward of the whole prompt in one step


class Workload(BaseModel):
    """Causal self-attention of a decoder layer with its q/k/v/o projections, and its shape."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    phase: Phase = Phase.DECODE
    batch: int = Field(default=1, ge=1, lt=2**31)  # sequences
    # Tokens: the prompt in prefill and train, in decode the filled cache before the first new one.
    seq_len: int = Field(default=512, ge=1, lt=2**31)
    new_tokens: int = Field(default=8, ge=1, lt=2**16)  # consecutive decode steps
    q_heads: int = Field(default=16, ge=1, lt=2**20)
    kv_heads: int = Field(default=0, ge=0, lt=2**20)  # 0 becomes q_heads
    head_dim: int = Field(default=64, ge=1, lt=2**20)
    hidden_size: int = Field(default=0, ge=0, lt=2**31)  # 0 becomes q_heads · head_dim
    layers: int = Field(default=1, ge=1, lt=2**20)
    score_mod: str = "none"

    @field_validator("score_mod")
    @classmethod
    def _canonical_score_mod(cls, value: str) -> str:
        return parse_score_mod(value).canonical

    @model_validator(mode="before")
    @classmethod
    def _fill_derived(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        defaults = {name: field.default for name, field in cls.model_fields.items()}
        q_heads, head_dim = (data.get(name, defaults[name]) for name in ("q_heads", "head_dim"))
        filled = dict(data)
        if not data.get("kv_heads"):
            filled["kv_heads"] = q_heads
        if not data.get("hidden_size") and isinstance(q_heads, int) and isinstance(head_dim, int):
            filled["hidden_size"] = q_heads * head_dim
        if data.get("phase", Phase.DECODE) != Phase.DECODE:
            filled["new_tokens"] = 1  # the prompt is one step; the field would not mean anything
        return filled

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.q_heads % self.kv_heads:
            raise ValueError(
                f"q_heads must be a multiple of kv_heads, got {self.q_heads} and {self.kv_heads}"
            )
        return self

    @model_validator(mode="after")
    def _prefix_fits(self) -> Self:
        if self.scores.prefix > self.seq_len:
            raise ValueError(
                f"the prefix must not be longer than seq_len, got {self.score_mod} "
                f"and {self.seq_len}"
            )
        return self

    @property
    def decodes(self) -> bool:
        """Whether tokens are generated one by one."""
        return self.phase is Phase.DECODE

    @property
    def trains(self) -> bool:
        """Whether a step computes gradients."""
        return self.phase is Phase.TRAIN

    @property
    def grouped(self) -> bool:
        """Whether several query heads share a key/value head."""
        return self.q_heads != self.kv_heads

    @property
    def capacity(self) -> int:
        """Tokens that the cache holds at the end."""
        return self.seq_len + (self.new_tokens if self.decodes else 0)

    @property
    def scores(self) -> ScoreModChain:
        """The score_mod with its parameters."""
        return parse_score_mod(self.score_mod)

    @property
    def key(self) -> str:
        """A readable identity: equal keys mean the same computation."""
        steps = f"+{self.new_tokens}" if self.decodes else ""
        return (
            f"{self.phase}/b{self.batch}/s{self.seq_len}{steps}/h{self.q_heads}:{self.kv_heads}"
            f"x{self.head_dim}/e{self.hidden_size}/l{self.layers}/{self.score_mod}"
        )
