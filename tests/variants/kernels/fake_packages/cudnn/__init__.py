"""What of nvidia-cudnn-frontend a decode step uses: graphs that are built once and then run."""

from __future__ import annotations

import enum
import itertools
import threading
from typing import Any

import torch

from tests.variants.kernels.reference_kernels import CALLS, padded_attention

data_type = enum.Enum("data_type", "BFLOAT16 HALF FLOAT INT32")
heur_mode = enum.Enum("heur_mode", "A FALLBACK")
_TYPES = {
    data_type.BFLOAT16: torch.bfloat16,
    data_type.HALF: torch.float16,
    data_type.INT32: torch.int32,
}
BUILT: list[pygraph] = []
STREAMS: dict[object, int] = {}
refuse_all = False


class cudnnGraphNotSupportedError(RuntimeError):
    pass


class _Handle:
    def __init__(self) -> None:
        self.thread = threading.get_ident()


def create_handle() -> _Handle:
    return _Handle()


def set_stream(handle: _Handle, stream: int) -> None:
    assert handle.thread == threading.get_ident(), "another thread may be launching with it"
    STREAMS[handle] = stream


class _GraphTensor:
    def __init__(self, dim: Any, stride: Any, kind: Any) -> None:
        self.dim, self.stride, self.kind, self.uid = dim, stride, kind, -1

    def set_output(self, is_output: bool) -> _GraphTensor:
        return self

    def set_dim(self, dim: list[int]) -> _GraphTensor:
        self.dim = dim
        return self

    def set_stride(self, stride: list[int]) -> _GraphTensor:
        self.stride = stride
        return self

    def get_uid(self) -> int:
        assert self.uid >= 0, "uids are given when a graph is built"
        return self.uid


class pygraph:
    def __init__(self, *, io_data_type: Any, handle: _Handle, **types: Any) -> None:
        self._io, self._handle = io_data_type, handle
        assert types == dict.fromkeys(
            ("intermediate_data_type", "compute_data_type"), data_type.FLOAT
        )

    def tensor(self, *, name: str, dim: list[int], stride: list[int], data_type: Any) -> Any:
        assert len(dim) == len(stride) == 4
        return _GraphTensor(dim, stride, data_type)

    def sdpa(self, *, name: str, attn_scale: float, **given: Any) -> tuple[Any, None]:
        assert given.pop("use_padding_mask")
        assert given.pop("is_inference")
        self._given = [given.pop(n) for n in ("q", "k", "v", "seq_len_q", "seq_len_kv")]
        assert not given
        self._scale, self._out = attn_scale, _GraphTensor(None, None, self._io)
        return self._out, None

    def build(self, modes: list[Any]) -> None:
        if refuse_all:
            raise cudnnGraphNotSupportedError("No valid execution plans")
        assert modes == [heur_mode.A, heur_mode.FALLBACK]
        for uid, tensor in zip(itertools.count(1), [*self._given, self._out], strict=False):
            tensor.uid = uid
        BUILT.append(self)

    def get_workspace_size(self) -> int:
        return 640

    def execute(self, tensors: dict[int, Any], workspace: Any, handle: _Handle) -> None:
        assert handle is self._handle
        assert workspace.nbytes >= 640
        query, key, value, rows, lengths = (
            _seen_as(declared, tensors[declared.uid]) for declared in self._given
        )
        assert (rows == 1).all()
        out = tensors[self._out.uid]
        target = torch.as_strided(out, self._out.dim, self._out.stride)
        target.copy_(padded_attention(query, key, value, lengths.flatten(), self._scale))
        CALLS.append({"graph": self, "stream": STREAMS[handle], "lengths": lengths.clone()})


def _seen_as(declared: _GraphTensor, given: torch.Tensor) -> torch.Tensor:
    assert given.dtype == _TYPES[declared.kind]
    return torch.as_strided(given, declared.dim, declared.stride)
