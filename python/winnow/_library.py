"""libwinnow.so's functions and structs, as include/winnow/winnow.h declares them. ctypes lets other Python threads run
during every call."""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, c_char_p, c_double, c_int, c_int32, c_int64, c_size_t, c_uint64, c_void_p
from pathlib import Path
from typing import Any

ABI_VERSION = 1

PROGRESS = ctypes.CFUNCTYPE(c_int, c_double, c_void_p)
ON_TOKEN = ctypes.CFUNCTYPE(c_int, c_int32, c_void_p, c_size_t, c_void_p)


class Struct(ctypes.Structure):
    """Its first field is its size."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(size=ctypes.sizeof(type(self)), **fields)


class EngineOptions(Struct):
    _fields_ = [
        ("size", c_size_t),
        ("model", c_char_p),
        ("random_weights", c_char_p),
        ("seed", c_uint64),
        ("device", c_char_p),
        ("precision", c_char_p),
        ("threads", c_int32),
        ("progress", PROGRESS),
        ("user_data", c_void_p),
        ("kv", c_char_p),
    ]


class ModelInfo(Struct):
    _fields_ = [
        ("size", c_size_t),
        ("name", c_char_p),
        *((name, c_int64) for name in ("layers", "heads", "kv_heads", "model_dim", "vocab", "context")),
        ("has_tokenizer", c_int32),
        ("has_chat_template", c_int32),
    ]


class PrefillOptions(Struct):
    _fields_ = [("size", c_size_t), ("reserve_tokens", c_int64), ("progress", PROGRESS), ("user_data", c_void_p)]


class Stage(Struct):
    _fields_ = [
        ("size", c_size_t),
        ("layer", c_int64),
        ("tokens_before", c_int64),
        ("tokens_kept", c_int64),
        ("ms", c_double),
        ("kept", POINTER(c_int32)),
    ]


class Stats(Struct):
    _fields_ = [
        ("size", c_size_t),
        *((name, c_int64) for name in ("tokens", "room", "prompt_tokens", "kept_tokens")),
        *((name, c_double) for name in ("prefill_ms", "decode_ms", "avgtok", "density", "attention_work", "flops")),
        *((name, c_int64) for name in ("kv_bytes", "memory_bytes")),
    ]


class GenerateOptions(Struct):
    _fields_ = [
        ("size", c_size_t),
        ("max_new_tokens", c_int64),
        ("temperature", c_double),
        ("top_k", c_int64),
        ("top_p", c_double),
        ("seed", c_uint64),
        ("stop", POINTER(c_char_p)),
        ("stop_count", c_size_t),
        ("new_text", c_int32),
        ("on_token", ON_TOKEN),
        ("user_data", c_void_p),
    ]


class Answer(Struct):
    _fields_ = [
        ("size", c_size_t),
        ("tokens", POINTER(c_int32)),
        ("count", c_size_t),
        ("text", c_void_p),
        ("text_bytes", c_size_t),
        ("finish", c_int32),
        ("decode_ms", c_double),
    ]


class EvaluateOptions(Struct):
    _fields_ = [
        ("size", c_size_t),
        ("length", c_int64),
        ("windows", c_int64),
        ("progress", PROGRESS),
        ("user_data", c_void_p),
    ]


QUALITY_NUMBERS = (
    "kl",
    "kl_low",
    "kl_high",
    "dce",
    "dce_low",
    "dce_high",
    "top1",
    "ppl",
    "avgtok",
    "density",
    "kv_share",
    "speedup",
)


class Quality(Struct):
    _fields_ = [("size", c_size_t), ("windows", c_int64), *((name, c_double) for name in QUALITY_NUMBERS)]


_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "winnow_engine_open": (POINTER(EngineOptions), POINTER(c_void_p)),
    "winnow_engine_info": (c_void_p, POINTER(ModelInfo)),
    "winnow_tokenize": (c_void_p, c_char_p, c_size_t, c_int32, POINTER(POINTER(c_int32)), POINTER(c_size_t)),
    "winnow_tokenize_chat": (
        c_void_p,
        POINTER(c_char_p),
        POINTER(c_char_p),
        c_size_t,
        POINTER(POINTER(c_int32)),
        POINTER(c_size_t),
    ),
    "winnow_detokenize": (c_void_p, c_void_p, c_size_t, POINTER(c_void_p), POINTER(c_size_t)),
    "winnow_policy_parse": (c_void_p, c_char_p, POINTER(c_void_p)),
    "winnow_policy_json": (c_void_p, POINTER(c_void_p)),
    "winnow_session_open": (c_void_p, POINTER(c_void_p)),
    "winnow_session_prefill": (c_void_p, c_void_p, c_size_t, c_void_p, POINTER(PrefillOptions)),
    "winnow_session_decode": (c_void_p, c_int32),
    "winnow_session_logits": (c_void_p, POINTER(c_void_p), POINTER(c_size_t)),
    "winnow_session_stages": (c_void_p, POINTER(c_size_t)),
    "winnow_session_stage": (c_void_p, c_size_t, POINTER(Stage)),
    "winnow_session_stats": (c_void_p, POINTER(Stats)),
    "winnow_generate": (c_void_p, POINTER(GenerateOptions), POINTER(Answer)),
    "winnow_evaluate": (
        c_void_p,
        POINTER(c_void_p),
        c_size_t,
        c_char_p,
        c_size_t,
        POINTER(EvaluateOptions),
        POINTER(Quality),
        POINTER(c_void_p),
    ),
}


def _find() -> str:
    """$WINNOW_LIBRARY, the one in this package (pip install), or the system's."""
    chosen = os.environ.get("WINNOW_LIBRARY")
    own = Path(__file__).parent / "libwinnow.so"
    return chosen or (str(own) if own.exists() else f"libwinnow.so.{ABI_VERSION}")


def _load() -> ctypes.CDLL:
    path = _find()
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(f"{path}: {error}; set WINNOW_LIBRARY to the file libwinnow.so") from error
    for name, arguments in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes = arguments
        function.restype = c_int32
    for name in ("winnow_engine_close", "winnow_policy_free", "winnow_session_close", "winnow_free"):
        function = getattr(library, name)
        function.argtypes = (c_void_p,)
        function.restype = None
    for name in ("winnow_version", "winnow_error_message"):
        getattr(library, name).restype = c_char_p
    library.winnow_abi_version.restype = c_int32
    if library.winnow_abi_version() != ABI_VERSION:
        raise ImportError(f"{path}: ABI {library.winnow_abi_version()}, this package is for {ABI_VERSION}")
    return library


library = _load()

STATUS_NAMES = ("ok", "io", "bad format", "unsupported", "bad argument", "out of memory", "cancelled", "internal")
CANCELLED = 6


class Error(Exception):
    """What winnow says about a call that failed; `kind` is one of STATUS_NAMES."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.kind = STATUS_NAMES[status] if 0 <= status < len(STATUS_NAMES) else str(status)


def check(status: int) -> None:
    if status != 0:
        raise Error(status, library.winnow_error_message().decode(errors="replace"))


def take_text(pointer: c_void_p, size: int | None = None) -> str:
    """A text the library has given away; gone there afterwards."""
    text = ctypes.string_at(pointer) if size is None else ctypes.string_at(pointer, size)
    library.winnow_free(pointer)
    return text.decode(errors="replace")


class Callback:
    """A Python function as a progress callback. What it raises ends the call and is raised again by reraise()."""

    def __init__(self, function: Any) -> None:
        self._raised: BaseException | None = None

        def told(share: float, _: Any) -> int:
            try:
                return 1 if function(share) is False else 0
            except BaseException as error:  # noqa: BLE001: C cannot pass it on
                self._raised = error
                return 1

        self.pointer = PROGRESS(told) if function is not None else PROGRESS()

    def reraise(self) -> None:
        if self._raised is not None:
            raise self._raised
