"""Engine, Policy, Session: a model, what to leave out, a conversation."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core

Tokens = NDArray[np.int32]
Logits = NDArray[np.float32]
Progress = Callable[[float], Any]  # told the share done, 0..1; False cancels (but for opening a model)
PolicyLike = Union["Policy", str, Mapping[str, Any], os.PathLike[str], None]


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
    """What a policy costs beside dense: means over windows of a text, with 95% intervals (None of fewer than 5 windows);
    in nats."""

    policy: str
    windows: int
    kl: float
    kl_interval: tuple[float, float] | None
    dce: float
    dce_interval: tuple[float, float] | None
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


def _utf8(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} is not Unicode: {error}; read it with errors='replace'") from error


def _encoded(text: str, what: str) -> bytes:
    return _no_zero(_utf8(text, what), what)


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


def _token(token: int) -> int:
    token = operator.index(token)  # no float, which would be cut
    if not -(2**31) <= token < 2**31:
        raise ValueError(f"a token is {token}: does not fit 32 bits")
    return token


def _seed(seed: int) -> int:
    seed = operator.index(seed)
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed is {seed}: must be at least 0 and fit 64 bits")
    return seed


class Policy:
    """What to leave out; made by Engine.policy(), checked against its model."""

    def __init__(self, name: str, core: Any) -> None:
        self.name = name
        self._core = core

    def to_dict(self) -> dict[str, Any]:
        """Every key of a policy file (docs/policies.md)."""
        result: dict[str, Any] = json.loads(self._core.json())
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
        self._core = _core.Engine(
            None if model is None else _path(model, "model"),
            None if random_weights is None else _encoded(random_weights, "random_weights"),
            _seed(seed),
            _encoded(device, "device"),
            _encoded(precision, "precision"),
            _encoded(kv, "kv"),
            threads,
            progress,
        )

    def close(self) -> None:
        """Gives the memory back once its sessions are closed too, and calls that run are over."""
        self._core.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def model(self) -> Model:
        return Model(**self._core.model())

    def tokenize(self, text: str, *, parse_special: bool = False) -> Tokens:
        tokens: Tokens = self._core.tokenize(_utf8(text, "text"), parse_special)
        return tokens

    def tokenize_chat(self, messages: Sequence[Mapping[str, str]]) -> Tokens:
        """[{"role": "user", "content": "..."}, ...] in the model's chat template, up to where the answer begins."""
        roles = [_encoded(message["role"], "a role") for message in messages]
        contents = [_encoded(message["content"], "a content") for message in messages]
        tokens: Tokens = self._core.tokenize_chat(roles, contents)
        return tokens

    def detokenize(self, tokens: ArrayLike) -> str:
        text: str = self._core.detokenize(_token_array(tokens))
        return text

    def policy(self, policy: PolicyLike) -> Policy:
        """A name or file as on the command line ("keep08", "auto", "my.json"), or a policy file's content as a dict."""
        if isinstance(policy, Policy):
            return policy
        if policy is None:
            policy = "dense"
        text = json.dumps(dict(policy)) if isinstance(policy, Mapping) else os.fspath(policy)
        return Policy("json" if text.startswith("{") else text, self._core.policy(_path(text, "policy")))

    def session(self) -> Session:
        return Session(self, self._core.session())

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
        4,096 tokens (at most the context) and 12 windows. `progress` is told a share several times, so that it can end
        a long window."""
        parsed = [self.policy(policy) for policy in policies]
        cores = [policy._core for policy in parsed]
        results, report = self._core.evaluate(_utf8(text, "text"), cores, length, windows, progress)
        qualities = [Quality(policy=policy.name, **result) for policy, result in zip(parsed, results)]
        return Evaluation(qualities, json.loads(report))


class Session:
    """One conversation: prefill() reads tokens, decode() one token, generate() answers. Calls from several threads wait
    for each other; close() during one takes effect after it."""

    def __init__(self, engine: Engine, core: Any) -> None:
        self.engine = engine
        self._core = core

    def close(self) -> None:
        self._core.close()

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
    ) -> Logits:
        """Reads tokens on top of what was read, and returns logits()."""
        chosen = self.engine.policy(policy)._core
        logits: Logits = self._core.prefill(_token_array(tokens), chosen, reserve_tokens, progress)
        return logits

    def decode(self, token: int) -> Logits:
        """Reads one token, and returns logits()."""
        logits: Logits = self._core.decode(_token(token))
        return logits

    def logits(self) -> Logits:
        """[vocab], of what follows the last token; a copy."""
        logits: Logits = self._core.logits()
        return logits

    @property
    def stages(self) -> list[Stage]:
        """Of the last prefill; empty when its policy dropped no tokens."""
        return [Stage(**stage) for stage in self._core.stages()]

    @property
    def stats(self) -> Stats:
        return Stats(**self._core.stats())

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
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p is {top_p}: must be above 0 and at most 1")
        stops = [_encoded(text, "a stop text") for text in stop]
        return Answer(
            *self._core.generate(max_new_tokens, temperature, top_k, top_p, _seed(seed), stops, new_text, on_token)
        )
