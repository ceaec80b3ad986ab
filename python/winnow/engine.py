"""Engine, Policy, Session: a model, what to leave out, a conversation."""

from __future__ import annotations

import ctypes
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from ctypes import POINTER, byref, c_char_p, c_int32, c_size_t, c_void_p
from dataclasses import dataclass
from typing import Any, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _library as lib
from ._library import check, library

Tokens = NDArray[np.int32]
Progress = Callable[[float], Any]  # told the share done, 0..1; False cancels
PolicyLike = Union["Policy", str, Mapping[str, Any], os.PathLike[str], None]

_FINISH = ("stop", "length", "callback")


@dataclass(frozen=True)
class Stage:
    """What a stage of a policy did: which tokens of the prompt went on to `layer`."""

    layer: int
    tokens_before: int
    ms: float
    kept: Tokens  # places in the prompt, ascending


@dataclass(frozen=True)
class Stats:
    """Fields as in winnow.h's winnow_stats."""

    tokens: int
    room: int
    prompt_tokens: int
    kept_tokens: int
    prefill_ms: float
    decode_ms: float
    avgtok: float
    density: float
    attention_work: float
    flops: float
    kv_bytes: int
    memory_bytes: int


@dataclass(frozen=True)
class Answer:
    tokens: Tokens
    text: str | None  # None: the model has no tokenizer
    finish: str  # "stop", "length", "callback"
    decode_ms: float  # the tokens after the first


@dataclass(frozen=True)
class Quality:
    """What a policy costs beside dense: means over windows of a text, with 95% intervals; in nats."""

    policy: str
    windows: int
    kl: float
    kl_interval: tuple[float, float]
    dce: float
    dce_interval: tuple[float, float]
    top1: float
    ppl: float
    avgtok: float
    density: float
    kv_share: float
    speedup: float  # 0: not timed


@dataclass(frozen=True)
class Evaluation:
    results: list[Quality]
    report: dict[str, Any]  # everything, as docs/json.md describes winnow.evaluation


@dataclass(frozen=True)
class Model:
    name: str
    layers: int
    heads: int
    kv_heads: int
    model_dim: int
    vocab: int
    context: int
    has_tokenizer: bool
    has_chat_template: bool


def _no_zero(encoded: bytes, what: str) -> bytes:
    if b"\0" in encoded:
        raise ValueError(f"{what} holds a zero, which would end it")
    return encoded


def _encoded(text: str, what: str) -> bytes:
    return _no_zero(text.encode(), what)


def _path(path: str | os.PathLike[str], what: str) -> bytes:
    return _no_zero(os.fsencode(path), what)


def _token_array(tokens: ArrayLike) -> Tokens:
    array = np.asarray(tokens)
    if array.ndim != 1 or (array.size > 0 and not np.issubdtype(array.dtype, np.integer)):
        raise TypeError(f"tokens must be a one-dimensional array of integers, not {array.dtype} {array.shape}")
    limits = np.iinfo(np.int32)
    if array.size > 0 and (array.min() < limits.min or array.max() > limits.max):
        raise ValueError("a token does not fit 32 bits")
    return np.ascontiguousarray(array, dtype=np.int32)


def _take_tokens(pointer: Any, count: int) -> Tokens:
    tokens = np.array(np.ctypeslib.as_array(pointer, (count,)), dtype=np.int32) if count else np.empty(0, np.int32)
    library.winnow_free(ctypes.cast(pointer, c_void_p))
    return tokens


class _Handle:
    """A pointer of the library, given back once: closed during calls, after the last of them. `with handle as pointer`
    around each call."""

    def __init__(self, pointer: c_void_p, free: Callable[[c_void_p], None]) -> None:
        self._pointer: c_void_p | None = pointer
        self._free = free
        self._lock = threading.Lock()
        self._calls = 0
        self._closed = False

    def __enter__(self) -> c_void_p:
        with self._lock:
            if self._closed or self._pointer is None:
                raise ValueError("is closed")
            self._calls += 1
            return self._pointer

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._calls -= 1
        self._free_if_done()

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._free_if_done()

    def _free_if_done(self) -> None:
        with self._lock:
            if not self._closed or self._calls > 0:
                return
            pointer, self._pointer = self._pointer, None
        if pointer is not None:
            self._free(pointer)  # may wait for the engine, so not under the lock

    def __del__(self) -> None:
        self.close()


class Policy:
    """What to leave out; made by Engine.policy(), checked against its model."""

    def __init__(self, name: str, pointer: c_void_p) -> None:
        self.name = name
        self._handle = _Handle(pointer, library.winnow_policy_free)

    def to_dict(self) -> dict[str, Any]:
        """Every key of a policy file (docs/policies.md)."""
        text = c_void_p()
        with self._handle as handle:
            check(library.winnow_policy_json(handle, byref(text)))
        result: dict[str, Any] = json.loads(lib.take_text(text))
        return result

    def __repr__(self) -> str:
        return f"Policy({self.name!r})"


class Engine:
    """An opened model. One thing at a time: calls from several threads wait for each other; Python's other threads
    go on meanwhile."""

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        random_weights: str | None = None,
        seed: int = 0,
        device: str = "cpu",
        precision: str = "bf16",
        kv: str = "same",
        threads: int = 0,
        progress: Progress | None = None,
    ) -> None:
        callback = lib.Callback(progress)
        options = lib.EngineOptions(
            model=None if model is None else _path(model, "model"),
            random_weights=None if random_weights is None else _encoded(random_weights, "random_weights"),
            seed=seed,
            device=_encoded(device, "device"),
            precision=_encoded(precision, "precision"),
            kv=_encoded(kv, "kv"),
            threads=threads,
            progress=callback.pointer,
        )
        pointer = c_void_p()
        check(library.winnow_engine_open(byref(options), byref(pointer)))
        self._handle = _Handle(pointer, library.winnow_engine_close)
        callback.reraise()

    def close(self) -> None:
        """Gives the memory back once its sessions are closed too, and calls that run are over."""
        self._handle.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def model(self) -> Model:
        info = lib.ModelInfo()
        with self._handle as handle:
            check(library.winnow_engine_info(handle, byref(info)))
            name = info.name.decode(errors="replace")  # the engine's
        return Model(
            name,
            info.layers,
            info.heads,
            info.kv_heads,
            info.model_dim,
            info.vocab,
            info.context,
            bool(info.has_tokenizer),
            bool(info.has_chat_template),
        )

    def tokenize(self, text: str, *, parse_special: bool = False) -> Tokens:
        encoded = text.encode()
        tokens, count = POINTER(c_int32)(), c_size_t()
        with self._handle as handle:
            check(library.winnow_tokenize(handle, encoded, len(encoded), parse_special, byref(tokens), byref(count)))
        return _take_tokens(tokens, count.value)

    def tokenize_chat(self, messages: Sequence[Mapping[str, str]]) -> Tokens:
        """[{"role": "user", "content": "..."}, ...] in the model's chat template, up to where the answer begins."""
        roles = (c_char_p * len(messages))(*(_encoded(message["role"], "a role") for message in messages))
        contents = (c_char_p * len(messages))(*(_encoded(message["content"], "a content") for message in messages))
        tokens, count = POINTER(c_int32)(), c_size_t()
        with self._handle as handle:
            check(library.winnow_tokenize_chat(handle, roles, contents, len(messages), byref(tokens), byref(count)))
        return _take_tokens(tokens, count.value)

    def detokenize(self, tokens: ArrayLike) -> str:
        array = _token_array(tokens)
        text, size = c_void_p(), c_size_t()
        with self._handle as handle:
            check(
                library.winnow_detokenize(
                    handle, array.ctypes.data_as(c_void_p), array.size, byref(text), byref(size)
                )
            )
        return lib.take_text(text, size.value)

    def policy(self, policy: PolicyLike) -> Policy:
        """A name or file as on the command line ("keep08", "auto", "my.json"), or a policy file's content as a dict."""
        if isinstance(policy, Policy):
            return policy
        if policy is None:
            policy = "dense"
        text = json.dumps(dict(policy)) if isinstance(policy, Mapping) else os.fspath(policy)
        encoded, pointer = _path(text, "policy"), c_void_p()
        with self._handle as handle:
            check(library.winnow_policy_parse(handle, encoded, byref(pointer)))
        return Policy("json" if text.startswith("{") else text, pointer)

    def session(self) -> Session:
        pointer = c_void_p()
        with self._handle as handle:
            check(library.winnow_session_open(handle, byref(pointer)))
        return Session(self, pointer)

    def evaluate(
        self,
        text: str,
        policies: Sequence[PolicyLike],
        *,
        length: int = 0,
        windows: int = 0,
        progress: Progress | None = None,
    ) -> Evaluation:
        """What each policy costs on `text`, beside dense on the same windows (docs/evaluation.md). 0: the defaults,
        4,096 tokens (at most the context) and 12 windows."""
        parsed = [self.policy(policy) for policy in policies]
        results = (lib.Quality * len(parsed))(*(lib.Quality() for _ in parsed))
        encoded = text.encode()
        callback = lib.Callback(progress)
        options = lib.EvaluateOptions(length=length, windows=windows, progress=callback.pointer)
        report = c_void_p()
        with ExitStack() as calls:
            handle = calls.enter_context(self._handle)
            pointers = (c_void_p * len(parsed))(*(calls.enter_context(policy._handle) for policy in parsed))
            status = library.winnow_evaluate(
                handle, pointers, len(parsed), encoded, len(encoded), byref(options), results, byref(report)
            )
        callback.reraise()
        check(status)
        qualities = [
            Quality(
                policy.name,
                q.windows,
                q.kl,
                (q.kl_low, q.kl_high),
                q.dce,
                (q.dce_low, q.dce_high),
                q.top1,
                q.ppl,
                q.avgtok,
                q.density,
                q.kv_share,
                q.speedup,
            )
            for policy, q in zip(parsed, results)
        ]
        return Evaluation(qualities, json.loads(lib.take_text(report)))


class Session:
    """One conversation: prefill() reads tokens, decode() one token, generate() answers. Calls from several threads wait
    for each other; close() during one takes effect after it."""

    def __init__(self, engine: Engine, pointer: c_void_p) -> None:
        self.engine = engine
        self._handle = _Handle(pointer, library.winnow_session_close)
        self._turn = threading.RLock()  # what is borrowed stays until the session's next call

    @contextmanager
    def _call(self) -> Iterator[c_void_p]:
        with self._turn, self._handle as handle:
            yield handle

    def close(self) -> None:
        self._handle.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def prefill(
        self,
        tokens: ArrayLike,
        policy: PolicyLike = None,
        *,
        reserve_tokens: int = 0,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """Reads tokens on top of what was read, and returns logits()."""
        array = _token_array(tokens)
        parsed = self.engine.policy(policy)
        callback = lib.Callback(progress)
        options = lib.PrefillOptions(reserve_tokens=reserve_tokens, progress=callback.pointer)
        with parsed._handle as chosen, self._call() as handle:
            status = library.winnow_session_prefill(
                handle, array.ctypes.data_as(c_void_p), array.size, chosen, byref(options)
            )
            callback.reraise()
            check(status)
            return self._logits(handle)

    def decode(self, token: int) -> NDArray[np.float32]:
        """Reads one token, and returns logits()."""
        with self._call() as handle:
            check(library.winnow_session_decode(handle, int(token)))
            return self._logits(handle)

    def logits(self) -> NDArray[np.float32]:
        """[vocab], of what follows the last token; a copy."""
        with self._call() as handle:
            return self._logits(handle)

    def _logits(self, handle: c_void_p) -> NDArray[np.float32]:
        values, count = c_void_p(), c_size_t()
        check(library.winnow_session_logits(handle, byref(values), byref(count)))
        borrowed = np.ctypeslib.as_array(ctypes.cast(values, POINTER(ctypes.c_float)), (count.value,))
        return np.array(borrowed)

    @property
    def stages(self) -> list[Stage]:
        """Of the last prefill; empty when its policy dropped no tokens."""
        count = c_size_t()
        stages = []
        with self._call() as handle:
            check(library.winnow_session_stages(handle, byref(count)))
            for index in range(count.value):
                stage = lib.Stage()
                check(library.winnow_session_stage(handle, index, byref(stage)))
                kept = np.array(np.ctypeslib.as_array(stage.kept, (stage.tokens_kept,)))
                stages.append(Stage(stage.layer, stage.tokens_before, stage.ms, kept))
        return stages

    @property
    def stats(self) -> Stats:
        stats = lib.Stats()
        with self._call() as handle:
            check(library.winnow_session_stats(handle, byref(stats)))
        return Stats(*(getattr(stats, field[0]) for field in lib.Stats._fields_[1:]))

    def generate(
        self,
        max_new_tokens: int = 128,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        new_text: bool = False,
        on_token: Callable[[int, str], Any] | None = None,
    ) -> Answer:
        """Goes on after what was read. `on_token` is told each token and the text that is certain by then; False ends
        the answer. `new_text`: the answer begins a text (a chat's), else it goes on with the prompt's."""
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {max_new_tokens}: must be at least 1")
        raised: list[BaseException] = []

        def told(token: int, text: int, size: int, _: Any) -> int:
            assert on_token is not None
            try:
                part = ctypes.string_at(text, size).decode(errors="replace") if size else ""
                return 1 if on_token(token, part) is False else 0
            except BaseException as error:  # noqa: BLE001: C cannot pass it on
                raised.append(error)
                return 1

        stops = (c_char_p * len(stop))(*(_encoded(text, "a stop text") for text in stop))
        options = lib.GenerateOptions(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            stop=stops,
            stop_count=len(stop),
            new_text=new_text,
            on_token=lib.ON_TOKEN(told) if on_token is not None else lib.ON_TOKEN(),
        )
        answer = lib.Answer()
        with self._call() as handle:
            check(library.winnow_generate(handle, byref(options), byref(answer)))
        tokens = _take_tokens(answer.tokens, answer.count)
        text = lib.take_text(c_void_p(answer.text), answer.text_bytes) if answer.text else None
        if raised:
            raise raised[0]
        return Answer(tokens, text, _FINISH[answer.finish], answer.decode_ms)
