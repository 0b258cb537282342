"""Loads the compiled core, which needs neither torch nor Python to be compiled, and says why not where it cannot."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from ctypes import POINTER, Structure, c_char_p, c_double, c_float, c_int64, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regrnn.errors import RegrnnError

INSTRUCTION_SETS = ("avx512", "avx2", "baseline")
"""From the widest; `baseline` is what every processor of the architecture has (SSE2, NEON)."""

BFLOAT16 = ("amx", "avx512bf16")
"""The libraries whose products round both factors to bfloat16 and sum in float32, from the fastest."""

_FOLDER = Path(__file__).parent


class Layer(Structure):
    """`struct Layer` of src/layer.h."""

    _fields_ = [
        *((name, c_int64) for name in ("cell", "T", "B", "N", "I", "H", "reverse", "threads")),
        *((name, c_void_p) for name in ("sizes", "x", "w_ih", "w_hh", "b_ih", "b_hh", "h0", "c0", "mask")),
        *((name, c_int64) for name in ("mask_packed", "mask_t", "mask_b")),
        *(("x_mask", c_void_p), ("groups", c_int64), ("first", c_void_p), ("scratch", c_void_p)),
        *((name, c_void_p) for name in ("h", "h_n", "c_n", "kept", "d_h", "d_h_n", "d_c_n")),
        ("wants_x", c_int64),
        *((name, c_void_p) for name in ("d_x", "d_h0", "d_c0", "d_w_ih", "d_w_hh", "d_b_ih", "d_b_hh")),
    ]


class Shared(Structure):
    """`struct Shared` of src/layer.h."""

    _fields_ = [
        *((name, c_int64) for name in ("groups", "N", "K")),
        *((name, c_void_p) for name in ("first", "mask", "kept", "count")),
    ]


class Matrix(Structure):
    """`struct Matrix` of src/layer.h."""

    _fields_ = [("K", c_int64), *((name, c_void_p) for name in ("panels", "bytes", "scales")), ("stride", c_int64)]


class StackedLayer(Structure):
    """`struct StackedLayer` of src/layer.h."""

    _fields_ = [("w_ih", Matrix), ("w_hh", Matrix), ("bias", c_void_p), ("b_hn", c_void_p)]


class Stack(Structure):
    """`struct Stack` of src/layer.h."""

    _fields_ = [
        *((name, c_int64) for name in ("cell", "layers", "B", "E", "H", "V", "threads")),
        ("embedding", c_void_p),
        ("stacked", POINTER(StackedLayer)),
        ("decoder", Matrix),
        *(
            (name, c_void_p)
            for name in ("decoder_bias", "h", "c", "logits", "projected", "known", "x", "gates", "h_now", "c_now")
        ),
        *((name, c_void_p) for name in ("products", "rounded", "steps", "unknown", "checked")),
    ]


class Drawing(Structure):
    """`struct Drawing` of src/layer.h."""

    _fields_ = [
        ("temperature", c_float),
        ("top_p", c_float),
        ("top_k", c_int64),
        ("never", c_void_p),
        ("nevers", c_int64),
        ("uniform", c_void_p),
    ]


_P, _N, _F, _S, _L = c_void_p, c_int64, c_float, POINTER(Shared), POINTER(Layer)
_SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "panel": (_N, []),
    "project": (None, [_N, _N, _N, _P, _P, _P, _P, _P, _N]),
    "product": (None, [_N, _N, _N, _P, _N, _P, _P, _P, _N]),
    "outer": (None, [_N, _N, _N, _P, _P, _N, *[_P] * 3, _N]),
    "layers_floats": (_N, [_L, _N, _N]),
    "layer_kept": (_N, [_L]),
    "layers_forward": (None, [_L, _N]),
    "layers_backward": (None, [_L, _N]),
    "separate_floats": (_N, [_N, _N, _N]),
    "softmax_forward": (c_double, [_N, _N, _N, *[_P] * 10, _S, _P, _P, _N]),
    "softmax_backward": (None, [_N, _N, _N, *[_P] * 4, _F, *[_P] * 5, _S, *[_P] * 4, _N]),
    "step": (None, [POINTER(Stack), _P]),
    "generate_ahead": (None, [POINTER(Stack), POINTER(Stack), POINTER(Drawing), _P, _N, _P]),
    "generate": (None, [POINTER(Stack), POINTER(Drawing), _N, _P]),
    "gather_rows": (_N, [_N, _N, _N, _P, _P, _P, _N]),
    "rows_in_use": (_N, [_N, _N, _P, _P, _P]),
    "ascending": (_N, [_N, _P]),
    "sum_rows": (None, [_N, _N, _N, _P, _P, _P, _P, _N]),
    "descend_rows": (None, [_N, _N, _P, _P, _P, _F, _N]),
    "sum_of_squares": (c_double, [_N, POINTER(_N), POINTER(_P), _P, _N]),
    "descend": (None, [_N, POINTER(_N), POINTER(_P), POINTER(_P), _F, _F, _F, _N]),
    "draw_mask": (None, [c_uint64, _N, c_uint64, _F, _P, _N]),
}


class Core:
    """The functions of one instruction set's library, by their names in src/core.cpp without `regrnn_`."""

    def __init__(self, instruction_set: str) -> None:
        import torch  # noqa: F401  loaded first, so that the core finds torch's OpenMP and shares its threads

        self.instruction_set = instruction_set
        self._library = ctypes.CDLL(str(_FOLDER / f"_{instruction_set}.so"))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self._library, f"regrnn_{name}")
            function.restype, function.argtypes = result, arguments
        self.panel_width: int = self._library.regrnn_panel()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in _SIGNATURES:
            raise AttributeError(name)
        function: Callable[..., Any] = getattr(self._library, f"regrnn_{name}")
        setattr(self, name, function)
        return function


@dataclass(frozen=True)
class Choice:
    """Which way of computing runs, and why."""

    core: Core | None
    reason: str


@functools.cache
def choose() -> Choice:
    """The core that `REGRNN_KERNEL` and the processor allow.

    Raises:
        RegrnnError: `REGRNN_KERNEL` is of no known value, or demands what cannot be had.
    """
    wanted = os.environ.get("REGRNN_KERNEL", "auto") or "auto"
    known = ("auto", "fused", "torch", *INSTRUCTION_SETS)
    if wanted not in known:
        raise RegrnnError(f"REGRNN_KERNEL={wanted}: must be one of {', '.join(known)}")
    if wanted == "torch":
        return Choice(None, "REGRNN_KERNEL=torch")
    try:
        best = instruction_set()
    except OSError as error:
        if wanted == "auto":
            return Choice(None, f"the compiled core is not there or does not load ({error})")
        raise RegrnnError(
            f"REGRNN_KERNEL={wanted}: the compiled core cannot be loaded ({error}); install regrnn again where there "
            "is a C++ compiler, or set REGRNN_KERNEL=auto"
        ) from None
    available = INSTRUCTION_SETS[INSTRUCTION_SETS.index(best) :]
    if wanted in INSTRUCTION_SETS and wanted not in available:
        raise RegrnnError(f"REGRNN_KERNEL={wanted}: this processor has only {', '.join(available)}")
    chosen = wanted if wanted in INSTRUCTION_SETS else best
    return Choice(Core(chosen), f"{chosen} of {', '.join(available)}")


@functools.cache
def choose_bfloat16() -> Choice:
    """The core whose products are in bfloat16, where `REGRNN_KERNEL` leaves the choice to the processor.

    Raises RegrnnError as `choose`.
    """
    if choose().core is None:
        return choose()
    wanted = os.environ.get("REGRNN_KERNEL", "auto") or "auto"
    if wanted not in ("auto", "fused"):
        return Choice(None, f"REGRNN_KERNEL={wanted}")
    library = ctypes.CDLL(str(_FOLDER / "_baseline.so"))
    library.regrnn_bfloat16.restype = c_char_p
    best: str = library.regrnn_bfloat16().decode()
    if not best:
        return Choice(None, "this processor has no products in bfloat16 (AVX-512 BF16 or AMX)")
    for name in BFLOAT16[BFLOAT16.index(best) :]:
        if (_FOLDER / f"_{name}.so").exists():
            return Choice(Core(name), name)
    return Choice(None, "the compiler that made the core does not know AVX-512 BF16 or AMX")


def instruction_set() -> str:
    """The widest instruction set that is compiled and that the processor has. Raises OSError: nothing is compiled."""
    library = ctypes.CDLL(str(_FOLDER / "_baseline.so"))
    library.regrnn_instruction_set.restype = c_char_p
    best: str = library.regrnn_instruction_set().decode()
    return best
