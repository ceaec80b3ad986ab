"""Engine, Policy, Session: a model, what to leave out, a conversation."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable, Mapping, Sequence
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


def _encoded(text: str | os.PathLike[str] | None) -> bytes | None:
    return None if text is None else os.fspath(text).encode()


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
    """A pointer of the library, given back once."""

    def __init__(self, pointer: c_void_p, free: Callable[[c_void_p], None]) -> None:
        self._pointer: c_void_p | None = pointer
        self._free = free

    def close(self) -> None:
        pointer, self._pointer = self._pointer, None
        if pointer is not None:
            self._free(pointer)

    def __del__(self) -> None:
        self.close()

    @property
    def pointer(self) -> c_void_p:
        if self._pointer is None:
            raise ValueError("is closed")
        return self._pointer


class Policy:
    """What to leave out; made by Engine.policy(), checked against its model."""

    def __init__(self, name: str, pointer: c_void_p) -> None:
        self.name = name
        self._handle = _Handle(pointer, library.winnow_policy_free)

    def to_dict(self) -> dict[str, Any]:
        """Every key of a policy file (docs/policies.md)."""
        text = c_void_p()
        check(library.winnow_policy_json(self._handle.pointer, byref(text)))
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
        threads: int = 0,
        progress: Progress | None = None,
    ) -> None:
        callback = lib.Callback(progress)
        options = lib.EngineOptions(
            model=_encoded(model),
            random_weights=_encoded(random_weights),
            seed=seed,
            device=device.encode(),
            precision=precision.encode(),
            threads=threads,
            progress=callback.pointer,
        )
        pointer = c_void_p()
        check(library.winnow_engine_open(byref(options), byref(pointer)))
        self._handle = _Handle(pointer, library.winnow_engine_close)
        callback.reraise()

    def close(self) -> None:
        """Gives the memory back once its sessions are closed too."""
        self._handle.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def model(self) -> Model:
        info = lib.ModelInfo()
        check(library.winnow_engine_info(self._handle.pointer, byref(info)))
        return Model(
            info.name.decode(),
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
        check(
            library.winnow_tokenize(
                self._handle.pointer, encoded, len(encoded), parse_special, byref(tokens), byref(count)
            )
        )
        return _take_tokens(tokens, count.value)

    def tokenize_chat(self, messages: Sequence[Mapping[str, str]]) -> Tokens:
        """[{"role": "user", "content": "..."}, ...] in the model's chat template, up to where the answer begins."""
        roles = (c_char_p * len(messages))(*(message["role"].encode() for message in messages))
        contents = (c_char_p * len(messages))(*(message["content"].encode() for message in messages))
        tokens, count = POINTER(c_int32)(), c_size_t()
        check(
            library.winnow_tokenize_chat(
                self._handle.pointer, roles, contents, len(messages), byref(tokens), byref(count)
            )
        )
        return _take_tokens(tokens, count.value)

    def detokenize(self, tokens: ArrayLike) -> str:
        array = _token_array(tokens)
        text, size = c_void_p(), c_size_t()
        check(
            library.winnow_detokenize(
                self._handle.pointer, array.ctypes.data_as(c_void_p), array.size, byref(text), byref(size)
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
        pointer = c_void_p()
        check(library.winnow_policy_parse(self._handle.pointer, text.encode(), byref(pointer)))
        return Policy("json" if text.startswith("{") else text, pointer)

    def session(self) -> Session:
        pointer = c_void_p()
        check(library.winnow_session_open(self._handle.pointer, byref(pointer)))
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
        handles = (c_void_p * len(parsed))(*(policy._handle.pointer for policy in parsed))
        results = (lib.Quality * len(parsed))(*(lib.Quality() for _ in parsed))
        encoded = text.encode()
        callback = lib.Callback(progress)
        options = lib.EvaluateOptions(length=length, windows=windows, progress=callback.pointer)
        report = c_void_p()
        status = library.winnow_evaluate(
            self._handle.pointer, handles, len(parsed), encoded, len(encoded), byref(options), results, byref(report)
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
    """One conversation: prefill() reads tokens, decode() one token, generate() answers."""

    def __init__(self, engine: Engine, pointer: c_void_p) -> None:
        self.engine = engine
        self._handle = _Handle(pointer, library.winnow_session_close)

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
        status = library.winnow_session_prefill(
            self._handle.pointer,
            array.ctypes.data_as(c_void_p),
            array.size,
            parsed._handle.pointer,
            byref(options),
        )
        callback.reraise()
        check(status)
        return self.logits()

    def decode(self, token: int) -> NDArray[np.float32]:
        """Reads one token, and returns logits()."""
        check(library.winnow_session_decode(self._handle.pointer, int(token)))
        return self.logits()

    def logits(self) -> NDArray[np.float32]:
        """[vocab], of what follows the last token; a copy."""
        values, count = c_void_p(), c_size_t()
        check(library.winnow_session_logits(self._handle.pointer, byref(values), byref(count)))
        borrowed = np.ctypeslib.as_array(ctypes.cast(values, POINTER(ctypes.c_float)), (count.value,))
        return np.array(borrowed)

    @property
    def stages(self) -> list[Stage]:
        """Of the last prefill; empty when its policy dropped no tokens."""
        count = c_size_t()
        check(library.winnow_session_stages(self._handle.pointer, byref(count)))
        stages = []
        for index in range(count.value):
            stage = lib.Stage()
            check(library.winnow_session_stage(self._handle.pointer, index, byref(stage)))
            kept = np.array(np.ctypeslib.as_array(stage.kept, (stage.tokens_kept,)))
            stages.append(Stage(stage.layer, stage.tokens_before, stage.ms, kept))
        return stages

    @property
    def stats(self) -> Stats:
        stats = lib.Stats()
        check(library.winnow_session_stats(self._handle.pointer, byref(stats)))
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

        stops = (c_char_p * len(stop))(*(text.encode() for text in stop))
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
        status = library.winnow_generate(self._handle.pointer, byref(options), byref(answer))
        check(status)
        tokens = _take_tokens(answer.tokens, answer.count)
        text = lib.take_text(c_void_p(answer.text), answer.text_bytes) if answer.text else None
        if raised:
            raise raised[0]
        return Answer(tokens, text, _FINISH[answer.finish], answer.decode_ms)
