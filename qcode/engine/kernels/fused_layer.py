"""Decoder layers that compiled code runs whole: their description in its structures, and the call.

The structures mirror those of matmul.h, cache_formats.h and decoder_layer.h, field by field.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from qcode.engine.kernels.library import CACHE_FORMATS, KernelLibrary

_INT32, _INT64, _FLOAT, _POINTER = (
    ctypes.c_int32,
    ctypes.c_int64,
    ctypes.c_float,
    ctypes.c_void_p,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMatrix:
    """A weight `shape` [out, in] as compiled code reads it."""

    data: Tensor
    """Contiguous, on the CPU: interleaved by `KernelLibrary.pack`, or as a file holds it."""
    ggml_type: int
    shape: tuple[int, int]
    is_packed: bool


@runtime_checkable
class StoredWeight(Protocol):
    """A weight that compiled code may be able to read where it is."""

    def stored_matrix(self) -> StoredMatrix | None: ...


class _Matrix(ctypes.Structure):
    _fields_ = (
        ("data", _POINTER),
        ("bias", _POINTER),
        ("rows", _INT64),
        ("columns", _INT64),
        ("ggml_type", _INT32),
        ("is_packed", _INT32),
    )


class _FeedForward(ctypes.Structure):
    _fields_ = (("gate", _Matrix), ("up", _Matrix), ("down", _Matrix))


class _Experts(ctypes.Structure):
    _fields_ = (
        ("router", _Matrix),
        ("experts", _POINTER),
        ("num_experts", _INT64),
        ("experts_per_token", _INT64),
        ("shared", _FeedForward),
        ("shared_gate", _POINTER),
        ("normalizes", _INT32),
        ("unused", _INT32),
    )


class _Attention(ctypes.Structure):
    _fields_ = (
        ("q", _Matrix),
        ("k", _Matrix),
        ("v", _Matrix),
        ("o", _Matrix),
        ("q_norm", _POINTER),
        ("k_norm", _POINTER),
        ("heads", _INT64),
        ("kv_heads", _INT64),
        ("head_dim", _INT64),
        ("scale", _FLOAT),
        ("is_gated", _INT32),
    )


class _DecoderLayer(ctypes.Structure):
    _fields_ = (
        ("hidden", _INT64),
        ("epsilon", _FLOAT),
        ("unused", _INT32),
        ("input_norm", _POINTER),
        ("post_norm", _POINTER),
        ("attention", _Attention),
        ("mlp", _FeedForward),
        ("experts", _Experts),
    )


class _PagedCache(ctypes.Structure):
    _fields_ = (
        ("keys", _POINTER),
        ("values", _POINTER),
        ("key_scales", _POINTER),
        ("value_scales", _POINTER),
        ("key_channels", _POINTER),
        ("kv_heads", ctypes.c_long),
        ("head_dim", ctypes.c_long),
        ("block_size", ctypes.c_long),
        ("format", ctypes.c_int),
    )


class _AttentionBatch(ctypes.Structure):
    _fields_ = (
        ("tables", _POINTER),
        ("query_starts", _POINTER),
        ("contexts", _POINTER),
        ("sequences", ctypes.c_long),
        ("table_width", ctypes.c_long),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        ("tokens", _INT64),
        ("cosines", _POINTER),
        ("sines", _POINTER),
        ("half", _INT64),
        ("slots", _POINTER),
        ("batch", _AttentionBatch),
        ("threads", _INT64),
    )


STRUCTURES = (_Matrix, _FeedForward, _DecoderLayer, _PagedCache, _Step)
"""In the order in which `KernelLibrary.decoder_sizes` gives their sizes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixParts:
    """A matrix and its bias [out], if it has one; float32."""

    weight: StoredMatrix
    bias: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedForwardParts:
    """down(silu(gate(x)) * up(x))."""

    gate: MatrixParts
    up: MatrixParts
    down: MatrixParts


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsParts:
    """See `layers.moe`. `shared_gate` [hidden] float32 comes with `shared`."""

    router: MatrixParts
    experts: Sequence[FeedForwardParts]
    experts_per_token: int
    norm_topk_prob: bool
    shared: FeedForwardParts | None = None
    shared_gate: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionParts:
    """Grouped-query attention; norms [head_dim] float32. Where it is gated, the rows of each head
    in `q` are followed by those of its gate."""

    q: MatrixParts
    k: MatrixParts
    v: MatrixParts
    o: MatrixParts
    head_dim: int
    is_gated: bool
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerParts:
    """Norms [hidden] float32. Without `attention` only the feed-forward network and its norm."""

    post_norm: Tensor
    eps: float
    feed_forward: FeedForwardParts | ExpertsParts
    input_norm: Tensor | None = None
    attention: AttentionParts | None = None


class Cache(Protocol):
    """Keys and values of a layer, as `layers.cache.PagedKV` holds them."""

    @property
    def keys(self) -> Tensor: ...
    @property
    def values(self) -> Tensor: ...
    @property
    def key_scales(self) -> Tensor | None: ...
    @property
    def value_scales(self) -> Tensor | None: ...
    @property
    def key_channels(self) -> Tensor | None: ...


class Inputs(Protocol):
    """Which token is where, as `layers.attention.AttentionInputs` says it."""

    @property
    def slots(self) -> Tensor: ...
    @property
    def query_starts(self) -> Tensor: ...
    @property
    def context_lens(self) -> Tensor: ...
    @property
    def block_tables(self) -> Tensor: ...


class FusedLayers:
    """Layers that follow one another and run in one call."""

    def __init__(self, library: KernelLibrary, layers: Sequence[LayerParts]) -> None:
        self._library = library
        self._memory: list[object] = []  # what the structures point at
        self._layers = (_DecoderLayer * len(layers))(*map(self._layer, layers))
        self._caches = (_PagedCache * len(layers))()
        self._described: list[weakref.ref[Cache] | None] = [None] * len(layers)

    def __len__(self) -> int:
        return len(self._layers)

    def run(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        inputs: Inputs,
        caches: Sequence[Cache],
    ) -> None:
        """x [N, D] float32 contiguous, in place; `rotation` are cosines and sines [N, R/2]. What
        the tokens leave is written to the caches."""
        for index, cache in enumerate(caches):
            known = self._described[index]
            if known is None or known() is not cache:
                self._caches[index] = _paged_cache(cache)
                self._described[index] = weakref.ref(cache)
        cos, sin = (part.contiguous() for part in rotation)
        tables, slots = inputs.block_tables.contiguous(), inputs.slots.contiguous()
        starts, lengths = inputs.query_starts.contiguous(), inputs.context_lens.contiguous()
        step = _Step(
            len(x),
            cos.data_ptr(),
            sin.data_ptr(),
            cos.shape[1],
            slots.data_ptr(),
            _AttentionBatch(
                tables.data_ptr(),
                starts.data_ptr(),
                lengths.data_ptr(),
                len(tables),
                tables.shape[1],
            ),
            torch.get_num_threads(),
        )
        self._library.decoder_layers(self._layers, self._caches, len(self), step, x)

    def run_feed_forward(self, x: Tensor) -> None:
        """x [N, D] float32 contiguous, in place, through layers that have no attention."""
        step = _Step(tokens=len(x), threads=torch.get_num_threads())
        self._library.decoder_layers(self._layers, self._caches, len(self), step, x)

    def _layer(self, parts: LayerParts) -> _DecoderLayer:
        layer = _DecoderLayer(
            hidden=len(parts.post_norm),
            epsilon=parts.eps,
            input_norm=self._floats(parts.input_norm),
            post_norm=self._floats(parts.post_norm),
        )
        if parts.attention is not None:
            layer.attention = self._attention(parts.attention)
        if isinstance(parts.feed_forward, FeedForwardParts):
            layer.mlp = self._feed_forward(parts.feed_forward)
        else:
            layer.experts = self._experts(parts.feed_forward)
        return layer

    def _attention(self, parts: AttentionParts) -> _Attention:
        return _Attention(
            *(self._matrix(part) for part in (parts.q, parts.k, parts.v, parts.o)),
            self._floats(parts.q_norm),
            self._floats(parts.k_norm),
            parts.o.weight.shape[1] // parts.head_dim,
            parts.k.weight.shape[0] // parts.head_dim,
            parts.head_dim,
            parts.head_dim**-0.5,
            parts.is_gated,
        )

    def _feed_forward(self, parts: FeedForwardParts) -> _FeedForward:
        return _FeedForward(*(self._matrix(part) for part in (parts.gate, parts.up, parts.down)))

    def _experts(self, parts: ExpertsParts) -> _Experts:
        experts = (_FeedForward * len(parts.experts))(*map(self._feed_forward, parts.experts))
        self._memory.append(experts)
        return _Experts(
            router=self._matrix(parts.router),
            experts=ctypes.addressof(experts),
            num_experts=len(experts),
            experts_per_token=parts.experts_per_token,
            shared=self._feed_forward(parts.shared) if parts.shared else _FeedForward(),
            shared_gate=self._floats(parts.shared_gate),
            normalizes=parts.norm_topk_prob,
        )

    def _matrix(self, parts: MatrixParts) -> _Matrix:
        weight = parts.weight
        self._memory.append(weight.data)
        return _Matrix(
            weight.data.data_ptr(),
            self._floats(parts.bias),
            *weight.shape,
            weight.ggml_type,
            weight.is_packed,
        )

    def _floats(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        tensor = tensor.contiguous()
        self._memory.append(tensor)
        return tensor.data_ptr()


def _paged_cache(cache: Cache) -> _PagedCache:
    _, kv_heads, block_size, head_dim = cache.keys.shape
    scales = (cache.key_scales, cache.value_scales, cache.key_channels)
    return _PagedCache(
        cache.keys.data_ptr(),
        cache.values.data_ptr(),
        *(None if scale is None else scale.data_ptr() for scale in scales),
        kv_heads,
        head_dim,
        block_size,
        CACHE_FORMATS[cache.keys.dtype],
    )
