"""The Python package over libwinnow.so, on the tiny golden model."""

import importlib.util
import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import winnow

GOLDEN = Path(os.environ["WINNOW_TEST_DATA"]) / "models"
STAGES = {
    "version": 1,
    "tokens": {"stages": [{"layer": 2, "keep": 0.5}], "protect_tail": {"min": 4, "share": 0.0}, "protect_head": 1},
}


@pytest.fixture(scope="module")
def engine():
    return winnow.Engine(GOLDEN / "tiny-llama", precision="f32", threads=1)


@pytest.fixture(scope="module")
def golden():
    return json.loads((GOLDEN / "tiny-llama" / "golden.json").read_text())


def test_tokens_are_those_of_the_model(engine, golden):
    tokens = engine.tokenize(golden["text"])
    assert tokens.dtype == np.int32
    assert engine.detokenize(tokens).strip() == golden["text"].strip()
    assert not tokens.flags.owndata and tokens.flags.writeable  # the library's memory, not copied
    assert engine.tokenize("").size <= 1  # nothing but a begin-of-text token


def test_dense_prefill_and_decode_agree(engine, golden):
    tokens = engine.tokenize(golden["text"])
    whole, steps = engine.session(), engine.session()
    expected = whole.prefill(tokens)
    steps.prefill(tokens[:-1])
    found = steps.decode(tokens[-1])
    assert expected.shape == (engine.model.vocab,) and expected.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert whole.stages == []
    assert whole.stats.tokens == tokens.size and whole.stats.kept_tokens == tokens.size


def test_a_policy_says_what_it_kept(engine, golden):
    tokens = engine.tokenize(golden["text"])
    session = engine.session()
    session.prefill(tokens, STAGES)
    (stage,) = session.stages
    assert stage.layer == 2 and stage.tokens_before == tokens.size
    assert stage.kept.size == session.stats.kept_tokens < tokens.size
    assert (np.diff(stage.kept) > 0).all() and stage.kept[-1] == tokens.size - 1
    assert engine.policy(STAGES).to_dict()["tokens"]["stages"][0]["keep"] == 0.5


def test_an_answer_is_what_decoding_the_likeliest_gives(engine, golden):
    tokens = engine.tokenize(golden["text"])
    session, by_hand = engine.session(), engine.session()
    session.prefill(tokens)
    heard = []
    answer = session.generate(6, on_token=lambda token, text: heard.append((token, text)))
    logits, expected = by_hand.prefill(tokens), []
    for _ in range(6):
        expected.append(int(logits.argmax()))
        logits = by_hand.decode(expected[-1])
    assert answer.tokens.tolist() == expected and answer.finish == "length"
    assert "".join(text for _, text in heard) == answer.text
    assert session.stats.tokens == tokens.size + 6


def test_a_callback_ends_an_answer_and_its_exception_arrives(engine):
    session = engine.session()
    session.prefill([1, 2, 3])
    assert session.generate(5, on_token=lambda token, text: False).tokens.size == 1

    def fails(token, text):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        session.generate(5, on_token=fails)
    for no in (False, np.False_):
        with pytest.raises(winnow.Error, match="cancelled"):
            engine.session().prefill([1, 2, 3], progress=lambda share: no)
    assert engine.session().prefill([1, 2, 3], progress=lambda share: 0).ndim == 1


@pytest.mark.parametrize("at", [0.0, 1.0])
def test_a_prefill_whose_callback_fails_has_read_nothing(engine, at):
    def fails(share):
        if share == at:
            raise KeyError("mine")

    session = engine.session()
    session.prefill([1, 2, 3])
    with pytest.raises(KeyError, match="mine"):
        session.prefill([4, 5], progress=fails)
    assert session.stats.tokens == 3


def test_a_callback_that_failed_is_not_called_again():
    calls = []

    def fails(share):
        calls.append(share)
        raise KeyError(len(calls))

    with pytest.raises(KeyError, match="1"):
        winnow.Engine(GOLDEN / "tiny-llama", threads=1, progress=fails)
    assert len(calls) == 1


def test_evaluation_compares_with_dense(engine, golden):
    text = golden["text"] * 60
    seen = []
    found = engine.evaluate(text, ["dense", STAGES], length=300, windows=5, progress=seen.append)
    dense, pruned = found.results
    assert dense.kl == 0 and dense.top1 == 1 and dense.windows == 5
    assert pruned.kl > 0 and pruned.kl_interval[0] <= pruned.kl <= pruned.kl_interval[1]
    assert pruned.avgtok < 1 and seen == sorted(seen) and seen[-1] <= 1
    assert len(seen) > 4 * len(set(seen))  # within a window too
    assert found.report["schema"] == "winnow.evaluation/1"
    (few,) = engine.evaluate(text, [STAGES], length=300, windows=2).results
    assert few.kl > 0 and few.kl_interval is None and few.dce_interval is None


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda e: winnow.Engine("/nothing/there.gguf"), "i/o", "there.gguf"),
        (lambda e: winnow.Engine(), "bad argument", "name a model"),
        (lambda e: winnow.Engine("x", precision="fp4"), "bad argument", "fp4"),
        (lambda e: winnow.Engine("x", kv="q4"), "bad argument", "q4"),
        (lambda e: e.policy("keep99"), "bad argument", "keep99"),
        (lambda e: e.policy({"version": 1, "tokens": {"stage": []}}), "bad format", "stage"),
        (lambda e: e.session().prefill([]), "bad argument", "empty"),
        (lambda e: e.session().prefill([10**6]), "bad argument", "vocabulary"),
        (lambda e: e.session().decode(1), "bad argument", "prefill"),
        (lambda e: e.session().generate(1), "bad argument", "nothing"),
        (lambda e: e.detokenize([-1]), "bad argument", "vocabulary"),
    ],
)
def test_errors_say_what_is_wrong(engine, call, kind, words):
    with pytest.raises(winnow.Error, match=words) as error:
        call(engine)
    assert error.value.kind == kind


def test_other_threads_run_during_a_call(engine):
    """The main thread counts on while a worker is inside one long call, which calls nothing of Python's."""
    text = "wind and corn. the old mill " * 4000
    begun, took = threading.Event(), []

    def work():
        begun.set()
        start = time.monotonic()
        engine.evaluate(text, [STAGES], length=300, windows=60)
        took.append(time.monotonic() - start)

    worker = threading.Thread(target=work)
    waits, last = [], time.monotonic()
    worker.start()
    assert begun.wait(30)
    while worker.is_alive():
        waits.append(time.monotonic() - last)
        last = time.monotonic()
        worker.join(0.001)
    waits.append(time.monotonic() - last)
    assert took and max(waits) < 0.7 * took[0]  # with the interpreter's lock held, the call would be one wait


def test_ctrl_c_ends_a_call(engine):
    text = "wind and corn. the old mill " * 4000
    whole, heard, begun = [], [], threading.Event()
    engine.evaluate(text, [STAGES], length=300, windows=60, progress=whole.append)

    def interrupt():
        if begun.wait(30):
            signal.raise_signal(signal.SIGINT)

    def progress(share):
        heard.append(share)
        begun.set()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    worker = threading.Thread(target=interrupt)
    worker.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            engine.evaluate(text, [STAGES], length=300, windows=60, progress=progress)
            worker.join()
    finally:
        worker.join()
        signal.signal(signal.SIGINT, before)
    assert 0 < len(heard) < len(whole) / 2  # it did not go on to its end
    assert engine.session().prefill([1, 2, 3]).ndim == 1


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda e: e.tokenize("a\ud800"), ValueError, "errors='replace'"),
        (lambda e: e.evaluate("a\ud800", ["dense"]), ValueError, "errors='replace'"),
        (lambda e: e.session().generate(1, stop=["\ud800"]), ValueError, "a stop text is not Unicode"),
        (lambda e: e.session().generate(1, seed=-1), ValueError, "seed is -1"),
        (lambda e: e.session().generate(1, top_p=0.0), ValueError, "top_p is 0.0"),
        (lambda e: winnow.Engine("x", seed=2**64), ValueError, "seed is"),
        (lambda e: e.session().decode(2**31), ValueError, "32 bits"),
        (lambda e: e.session().decode(2.7), TypeError, "float"),
        (lambda e: e._core.evaluate("text", [None], 0, 0, None), TypeError, "policy is None"),
    ],
)
def test_arguments_that_cannot_be_passed_on_say_why(engine, call, kind, words):
    with pytest.raises(kind, match=words):
        call(engine)


def test_closing_during_a_call_waits_for_its_end():
    engine = winnow.Engine(GOLDEN / "tiny-llama", precision="f32", threads=1)
    session = engine.session()

    def progress(share):
        session.close()
        engine.close()

    assert session.prefill([1, 2, 3], progress=progress).ndim == 1
    with pytest.raises(ValueError, match="closed"):
        session.decode(1)
    with pytest.raises(ValueError, match="closed"):
        engine.tokenize("x")


@pytest.mark.parametrize(
    "call",
    [
        lambda e: winnow.Engine("x\0y"),
        lambda e: winnow.Engine("x", device="cpu\0"),
        lambda e: e.policy("keep08\0x"),
        lambda e: e.session().generate(1, stop=["a\0b"]),
        lambda e: e.tokenize_chat([{"role": "user", "content": "a\0b"}]),
    ],
)
def test_a_zero_ends_no_text_early(engine, call):
    with pytest.raises(ValueError, match="zero"):
        call(engine)


def test_calls_of_threads_take_turns(engine):
    expected = engine.session().prefill(np.arange(20))
    found = [None] * 4

    def work(index):
        found[index] = engine.session().prefill(np.arange(20))

    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for logits in found:
        np.testing.assert_array_equal(logits, expected)


def test_a_callback_may_not_use_its_engine(engine):
    session = engine.session()
    with pytest.raises(winnow.Error, match="callback"):
        engine.session().prefill([1, 2], progress=lambda share: session.prefill([1]))


def test_the_notebook_runs(tmp_path):
    """Its code cells one after the other, as Jupyter would; cells that need a package which is not here are left out."""
    notebook = json.loads((Path(__file__).parents[2] / "examples" / "policy_evaluation.ipynb").read_text())
    (tmp_path / "text.txt").write_text("wind and corn. the old mill " * 400)
    parameters = {"model": str(GOLDEN / "tiny-llama.gguf"), "text_file": str(tmp_path / "text.txt"), "length": 300,
                  "windows": 2, "policies": ["dense", "pooled=0.9", STAGES]}  # fmt: skip
    names = {}
    for cell in notebook["cells"]:
        tags = cell["metadata"].get("tags", [])
        missing = [tag for tag in tags if tag.startswith("needs-") and not importlib.util.find_spec(tag[6:])]
        if cell["cell_type"] != "code" or missing:
            continue
        exec("".join(cell["source"]), names)
        if "parameters" in tags:
            default_policies = names["policies"]
            names.update(parameters)
    assert [quality.windows for quality in names["found"].results] == [2, 2, 2]
    assert names["found"].results[0].kl == 0
    for policy in default_policies:  # they fit every model, of layers enough for the presets
        try:
            names["engine"].policy(policy)
        except winnow.Error as error:
            assert "needs a model of 7 layers" in str(error)
