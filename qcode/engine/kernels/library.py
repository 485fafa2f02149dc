"""The compiled kernels, called through their C interface on the memory of tensors.

Every function here takes CPU tensors and has the meaning of its namesake in `kernels.reference`.
Loading happens on first use. Each call takes as many threads as torch is set to.
"""

import ctypes
import functools
import os
from pathlib import Path

import torch
from torch import Tensor

VARIABLE = "QCODE_KERNELS"
"""Environment variable: a variant to load instead of the best one, or `torch` for none."""

DIRECTORY = Path(__file__).parent
"""Where `kernels.build` puts the libraries of this installation."""

_INT, _LONG, _FLOAT, _POINTER = ctypes.c_int, ctypes.c_long, ctypes.c_float, ctypes.c_void_p
_MATRIX = (_LONG, _LONG)
_SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "qcode_packed_bytes": (_LONG, (_INT, *_MATRIX)),
    "qcode_pack": (None, (_INT, _POINTER, _POINTER, *_MATRIX, _INT)),
    "qcode_unpack_rows": (_INT, (_INT, _POINTER, _POINTER, _LONG, _POINTER, *_MATRIX)),
    "qcode_multiply": (None, (_INT, *(_POINTER,) * 3, _LONG, *_MATRIX, _INT)),
    "qcode_row_bytes": (_LONG, (_INT, _LONG)),
    "qcode_multiply_rows": (None, (_INT, *(_POINTER,) * 3, _LONG, *_MATRIX, _INT)),
    "qcode_decode_rows": (_INT, (_INT, _POINTER, _POINTER, _LONG, _POINTER, *_MATRIX)),
    "qcode_rms_norm": (None, (*(_POINTER,) * 3, *_MATRIX, _FLOAT, _INT)),
    "qcode_silu_and_mul": (None, (*(_POINTER,) * 3, _LONG, _INT)),
    "qcode_rotary": (None, (*(_POINTER,) * 4, *(_LONG,) * 5, _INT)),
    "qcode_paged_attention": (None, (*(_POINTER,) * 10, *(_LONG,) * 6, _FLOAT, _INT, _INT)),
    "qcode_decoder_layers": (None, (_POINTER, _POINTER, _LONG, _POINTER, _POINTER)),
    "qcode_decoder_sizes": (None, (ctypes.POINTER(_LONG),)),
    "qcode_gated_delta_step": (None, (*(_POINTER,) * 8, *(_LONG,) * 6, _INT)),
    "qcode_write_cache": (None, (*(_POINTER,) * 8, *(_LONG,) * 5, _INT, _INT)),
}

CACHE_FORMATS: dict[torch.dtype, int] = {
    torch.float32: 0,
    torch.float16: 1,
    torch.bfloat16: 2,
    torch.int8: 3,
    torch.float8_e4m3fn: 4,
}
"""The number formats of a key and value cache, by their numbers in cache_formats.h."""


class StaleLibrary(Exception):
    """A library was compiled from other sources than those beside it: its functions may expect
    other arguments, and calling them could end the process."""


class KernelLibrary:
    """One variant of the kernels, loaded."""

    def __init__(self, path: Path, variant: str) -> None:
        """Raises OSError when the file cannot be loaded, StaleLibrary when it must not be used."""
        self.variant = variant
        self._c = ctypes.CDLL(str(path))
        _check_sources(self._c, path)
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self._c, name)
            function.restype, function.argtypes = result, arguments

    def packed_bytes(self, ggml_type: int, shape: tuple[int, int]) -> int:
        """Size of the packed form of a weight [out, in]; 0 when it has none."""
        return int(self._c.qcode_packed_bytes(ggml_type, *shape))

    def pack(self, raw: Tensor, ggml_type: int, shape: tuple[int, int]) -> Tensor:
        """Bytes of a weight [out, in] as in a GGUF file -> the packed form, uint8.

        Raises ValueError when `packed_bytes` is 0.
        """
        size = self.packed_bytes(ggml_type, shape)
        if not size:
            raise ValueError(f"weights of ggml type {ggml_type} and shape {shape} are not packed")
        packed = torch.empty(size, dtype=torch.uint8)
        source = raw.contiguous()
        self._c.qcode_pack(ggml_type, source.data_ptr(), packed.data_ptr(), *shape, _threads())
        return packed

    def unpack_rows(
        self, packed: Tensor, ggml_type: int, shape: tuple[int, int], ids: Tensor
    ) -> Tensor:
        """Rows `ids` [N] int64 -> [N, in] float32. Raises IndexError for an id out of range."""
        ids = ids.contiguous()
        values = torch.empty(len(ids), shape[1])
        in_range = self._c.qcode_unpack_rows(
            ggml_type, packed.data_ptr(), ids.data_ptr(), len(ids), values.data_ptr(), *shape
        )
        if not in_range:
            raise IndexError(f"row ids outside 0..{shape[0] - 1}")
        return values

    def multiply(self, packed: Tensor, ggml_type: int, shape: tuple[int, int], x: Tensor) -> Tensor:
        """x [T, in] float32 -> [T, out]; x is rounded to 8 bits in blocks of 32 on the way."""
        tokens, width = x.shape
        if width != shape[1]:
            raise ValueError(f"{width} input features for a weight of shape {shape}")
        x = x.contiguous()
        y = torch.empty(tokens, shape[0])
        self._c.qcode_multiply(
            ggml_type, packed.data_ptr(), x.data_ptr(), y.data_ptr(), tokens, *shape, _threads()
        )
        return y

    def multiply_rows(
        self, raw: Tensor, ggml_type: int, shape: tuple[int, int], x: Tensor
    ) -> Tensor:
        """x [T, in] float32 times a weight [out, in] kept as a file holds it -> [T, out] float32.

        `raw` is contiguous, of any dtype: the bytes of the weight in the ggml type of that id,
        0, 1 and 30 being float32, float16 and bfloat16. All maths is float32. Raises ValueError
        where type, shape, bytes and x do not belong together.
        """
        self._check_rows(raw, ggml_type, shape)
        tokens, width = x.shape
        if width != shape[1]:
            raise ValueError(f"{width} input features for a weight of shape {shape}")
        x = x.contiguous()
        y = torch.empty(tokens, shape[0])
        self._c.qcode_multiply_rows(
            ggml_type, raw.data_ptr(), x.data_ptr(), y.data_ptr(), tokens, *shape, _threads()
        )
        return y

    def decode_rows(
        self, raw: Tensor, ggml_type: int, shape: tuple[int, int], ids: Tensor
    ) -> Tensor:
        """Rows `ids` [N] int64 of a weight as `multiply_rows` takes it -> [N, in] float32.

        Raises IndexError for an id out of range, ValueError as `multiply_rows`.
        """
        self._check_rows(raw, ggml_type, shape)
        ids = ids.contiguous()
        values = torch.empty(len(ids), shape[1])
        in_range = self._c.qcode_decode_rows(
            ggml_type, raw.data_ptr(), ids.data_ptr(), len(ids), values.data_ptr(), *shape
        )
        if not in_range:
            raise IndexError(f"row ids outside 0..{shape[0] - 1}")
        return values

    def _check_rows(self, raw: Tensor, ggml_type: int, shape: tuple[int, int]) -> None:
        rows, columns = shape
        row_bytes = int(self._c.qcode_row_bytes(ggml_type, columns))
        if not row_bytes or raw.nbytes != rows * row_bytes or not raw.is_contiguous():
            raise ValueError(
                f"{raw.nbytes} bytes are no weight of ggml type {ggml_type} and shape {shape}"
            )

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x [T, D] and weight [D] float32."""
        x, weight = x.contiguous(), weight.contiguous()
        y = torch.empty_like(x)
        self._c.qcode_rms_norm(
            x.data_ptr(), weight.data_ptr(), y.data_ptr(), *x.shape, eps, _threads()
        )
        return y

    def silu_and_mul(self, gate: Tensor, up: Tensor) -> Tensor:
        """Two float32 tensors of the same shape."""
        gate, up = gate.contiguous(), up.contiguous()
        y = torch.empty_like(gate)
        self._c.qcode_silu_and_mul(
            gate.data_ptr(), up.data_ptr(), y.data_ptr(), gate.numel(), _threads()
        )
        return y

    def apply_rotary(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [T, H, D], cos and sin [T, R/2], all float32."""
        tokens, heads, head_dim = x.shape
        if x.stride(2) != 1 or x.stride(1) != head_dim:
            x = x.contiguous()
        cos, sin = cos.contiguous(), sin.contiguous()
        y = torch.empty(tokens, heads, head_dim)
        self._c.qcode_rotary(
            x.data_ptr(),
            cos.data_ptr(),
            sin.data_ptr(),
            y.data_ptr(),
            tokens,
            heads,
            head_dim,
            cos.shape[1],
            x.stride(0),
            _threads(),
        )
        return y

    def paged_attention(
        self,
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        block_tables: Tensor,
        query_starts: Tensor,
        context_lens: Tensor,
        scale: float,
        k_scales: Tensor | None = None,
        v_scales: Tensor | None = None,
        key_channels: Tensor | None = None,
    ) -> Tensor:
        """float32 q; contiguous caches of a dtype in CACHE_FORMATS with head_dim a multiple of 16,
        and contiguous scales or none."""
        q, tables = q.contiguous(), block_tables.contiguous()
        starts, lengths = query_starts.contiguous(), context_lens.contiguous()
        output = torch.empty_like(q)
        _, kv_heads, block_size, head_dim = k_cache.shape
        self._c.qcode_paged_attention(
            q.data_ptr(),
            k_cache.data_ptr(),
            v_cache.data_ptr(),
            _address(k_scales),
            _address(v_scales),
            _address(key_channels),
            tables.data_ptr(),
            starts.data_ptr(),
            lengths.data_ptr(),
            output.data_ptr(),
            len(lengths),
            q.shape[1],
            kv_heads,
            head_dim,
            block_size,
            tables.shape[1],
            scale,
            CACHE_FORMATS[k_cache.dtype],
            _threads(),
        )
        return output

    def gated_delta_step(
        self,
        qkv: Tensor,
        g: Tensor,
        beta: Tensor,
        conv_weight: Tensor,
        conv: Tensor,
        recurrent: Tensor,
        slots: Tensor,
    ) -> Tensor:
        """All float32 but slots; conv and recurrent contiguous, and brought up to date."""
        qkv, g, beta = qkv.contiguous(), g.contiguous(), beta.contiguous()
        weight, slots = conv_weight.contiguous(), slots.contiguous()
        _, heads, key_dim, value_dim = recurrent.shape
        output = torch.empty(len(qkv), heads, value_dim)
        self._c.qcode_gated_delta_step(
            qkv.data_ptr(),
            g.data_ptr(),
            beta.data_ptr(),
            weight.data_ptr(),
            conv.data_ptr(),
            recurrent.data_ptr(),
            slots.data_ptr(),
            output.data_ptr(),
            *qkv.shape,
            weight.shape[1],
            heads,
            key_dim,
            value_dim,
            _threads(),
        )
        return output

    def write_cache(
        self,
        k: Tensor,
        v: Tensor,
        slots: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        k_scales: Tensor | None = None,
        v_scales: Tensor | None = None,
        key_channels: Tensor | None = None,
    ) -> None:
        """float32 k and v; caches and scales as for `paged_attention`."""
        tokens, kv_heads, head_dim = k.shape
        k, v, slots = k.contiguous(), v.contiguous(), slots.contiguous()
        self._c.qcode_write_cache(
            k_cache.data_ptr(),
            v_cache.data_ptr(),
            _address(k_scales),
            _address(v_scales),
            _address(key_channels),
            k.data_ptr(),
            v.data_ptr(),
            slots.data_ptr(),
            kv_heads,
            head_dim,
            k_cache.shape[2],
            kv_heads * head_dim,
            tokens,
            CACHE_FORMATS[k_cache.dtype],
            _threads(),
        )

    def decoder_layers(
        self,
        layers: object,
        caches: object,
        count: int,
        step: ctypes.Structure,
        x: Tensor,
    ) -> None:
        """x [N, D] float32 contiguous through layers that `fused_layer` describes, in place."""
        self._c.qcode_decoder_layers(layers, caches, count, ctypes.byref(step), x.data_ptr())

    def decoder_sizes(self) -> list[int]:
        """Bytes of the structures of `fused_layer.STRUCTURES`, as the compiled code sees them."""
        sizes = (_LONG * 5)()
        self._c.qcode_decoder_sizes(sizes)
        return list(sizes)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _threads() -> int:
    return torch.get_num_threads()


def _library(directory: Path, variant: str) -> Path:
    # As `build.library_name` says; its module is also run as a program, before which the package
    # must not have imported it.
    return directory / f"qcode_kernels_{variant}.so"


def _check_sources(library: ctypes.CDLL, path: Path) -> None:
    # Imported late for the same reason. An installation without sources has nothing to differ from.
    from qcode.engine.kernels.build import source_digest

    expected = source_digest(path.parent)
    if expected is None:
        return
    found = getattr(library, "qcode_source_digest", None)
    if found is not None:
        found.restype, found.argtypes = ctypes.c_char_p, ()
    if found is None or found().decode() != expected:
        raise StaleLibrary(f"{path.name} was not compiled from the sources beside it")


def load(directory: Path, variant: str | None = None) -> KernelLibrary:
    """The libraries that `build` put into `directory`: the named variant, or the CPU's best.

    Raises OSError when they are missing or cannot be loaded, StaleLibrary when the sources beside
    them have changed since.
    """
    if variant is None:
        portable = ctypes.CDLL(str(_library(directory, "portable")))
        portable.qcode_best_variant.restype = ctypes.c_char_p
        variant = portable.qcode_best_variant().decode()
    return KernelLibrary(_library(directory, variant), variant)


@functools.cache
def _installed() -> KernelLibrary | str:
    """The library in use, or why there is none."""
    wanted = os.environ.get(VARIABLE) or None
    if wanted == "torch":
        return f"switched off by {VARIABLE}=torch"
    if not _library(DIRECTORY, wanted or "portable").exists():
        return "not compiled; run `python -m qcode.engine.kernels.build` (needs a C++ compiler)"
    try:
        return load(DIRECTORY, wanted)
    except OSError as error:
        return f"cannot be loaded: {error}"
    except StaleLibrary:
        return "older than their sources; run `python -m qcode.engine.kernels.build`"


def installed() -> KernelLibrary | None:
    """The compiled kernels of this installation, loaded on first use; None without them."""
    found = _installed()
    return found if isinstance(found, KernelLibrary) else None


def status() -> str:
    """One line for `qcode doctor`: which variant is loaded, or why none is."""
    found = _installed()
    if isinstance(found, KernelLibrary):
        return f"compiled kernels: {found.variant}, {_threads()} threads"
    return f"compiled kernels: {found}; plain torch is used, which is many times slower"
