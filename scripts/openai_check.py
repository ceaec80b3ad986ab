#!/usr/bin/env python3
"""A running winnow serve, asked by OpenAI's own client: answers, streams, usage, log-probabilities, and every refusal.

    pip install openai;  scripts/openai_check.py http://127.0.0.1:8080 [POLICY]        POLICY: one that prunes, keep08 by default

The server must have no key and be otherwise idle (the test of cancelling looks at its metrics). Exit 1 at the first
thing that is not as it should be.
"""

import json
import sys
import time
import urllib.error
import urllib.request

from openai import APIStatusError, OpenAI

base = sys.argv[1].rstrip("/")
policy = sys.argv[2] if len(sys.argv) > 2 else "keep08"
client = OpenAI(base_url=base + "/v1", api_key="none", max_retries=0)
model = client.models.list().data[0].id
long_text = "The mill stood by the river, and the wind turned its wheel. " * 40
long = [{"role": "system", "content": "Answer shortly."}, {"role": "user", "content": long_text + "\n\nWhat stood by the river?"}]


def expect(true, what):
    if not true:
        sys.exit(f"openai_check: {what}")
    print("ok:", what)


def ask(**fields):
    return client.chat.completions.create(**{"model": model, "messages": long, "max_tokens": 12, "temperature": 0} | fields)


def get(path):
    return urllib.request.urlopen(base + path).read().decode()


def metric(name):
    return sum(float(line.split()[-1]) for line in get("/metrics").splitlines() if line.startswith(name))


def refused(what, status, param, **fields):
    try:
        ask(**fields)
    except APIStatusError as error:
        body = error.response.json()["error"]
        expect(error.status_code == status and body["param"] == param and body["message"], f"{what}: {status} {body['message']}")
        return
    sys.exit(f"openai_check: {what} was not refused")


# Answers
whole = ask()
expect(whole.choices[0].message.content and whole.choices[0].finish_reason in ("stop", "length"), "an answer")
usage = whole.usage
expect(usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, "usage adds up")
pruned = ask(extra_body={"winnow": {"policy": policy, "positions": True}})
kept = pruned.usage.prompt_tokens_details.kept_tokens
expect(0 < kept < usage.prompt_tokens, f"{policy} keeps {kept} of {usage.prompt_tokens} tokens")
expect({"kept_tokens", "density", "ttft_ms", "policy", "stages"} <= set(pruned.winnow), "the response's winnow field")
streamed, last = "", None
for chunk in ask(stream=True, stream_options={"include_usage": True}):
    last = chunk
    streamed += (chunk.choices[0].delta.content or "") if chunk.choices else ""
expect(streamed == whole.choices[0].message.content, "a stream says what the whole answer says")
expect(last.usage.completion_tokens == usage.completion_tokens, "usage at the end of a stream")
logged = ask(logprobs=True, top_logprobs=3, max_tokens=4).choices[0].logprobs.content
expect(len(logged) <= 4 and all(len(t.top_logprobs) == 3 and t.logprob <= 0 for t in logged), "logprobs")
word = whole.choices[0].message.content.split()[1]
stopped = ask(stop=[word]).choices[0]
expect(word not in stopped.message.content and stopped.finish_reason == "stop", f"the stop string {word!r}")
several = ask(n=3, temperature=1.5, seed=5)
expect(len(several.choices) == 3 and len({c.message.content for c in several.choices}) > 1, "n = 3")
again = ask(n=3, temperature=1.5, seed=5)
expect([c.message.content for c in several.choices] == [c.message.content for c in again.choices], "a seed repeats")
text = client.completions.create(model=model, prompt="Once upon a time", max_tokens=5, logprobs=2)
expect(text.choices[0].text and len(text.choices[0].logprobs.tokens) == text.usage.completion_tokens, "a completion")
parts = ask(messages=[{"role": "user", "content": [{"type": "text", "text": "Hello."}]}])
expect(parts.choices[0].message.content is not None, "content in parts")

# Refusals: a status, the field, a message
refused("tools", 400, "tools", tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])
refused("response_format", 400, "response_format", response_format={"type": "json_object"})
refused("n = 0", 400, "n", n=0)
refused("empty messages", 400, "messages", messages=[])
refused("a role", 400, "messages[0].role", messages=[{"role": "wizard", "content": "x"}])
refused("an image", 400, "messages[0].content[0].type",
        messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}])
refused("a wrong type", 400, "temperature", temperature="hot")
refused("a huge number", 400, "max_tokens", max_tokens=10**30)
refused("another model", 404, "model", model="gpt-4")
refused("an unknown field", 400, "wings", extra_body={"wings": 2})
refused("an unknown policy", 400, "winnow.policy", extra_body={"winnow": {"policy": "/etc/passwd"}})
refused("penalties", 400, "presence_penalty", presence_penalty=1)
refused("a prompt beyond the context", 400, "messages", messages=[{"role": "user", "content": "corn " * 200000}])


def post(path, body, **headers):
    request = urllib.request.Request(base + path, body, {"Content-Type": "application/json"} | headers)
    try:
        return urllib.request.urlopen(request).status, {}
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["error"]


for what, body in {"malformed JSON": b"{", "no object": b"[]", "invalid UTF-8": b'{"messages": "\xff"}',
                   "deep nesting": b'{"messages": ' + b"[" * 5000 + b"]" * 5000 + b"}", "a key twice": b'{"n": 1, "n": 2}',
                   "an empty body": b""}.items():
    status, error = post("/v1/chat/completions", body)
    expect(status == 400 and error["type"] == "invalid_request_error", f"{what}: {error['message'][:90]}")
expect(post("/v1/nothing", b"{}")[0] == 404, "an unknown path is a 404")
expect(post("/v1/chat/completions", b"{}", **{"Content-Type": "text/plain"})[0] == 415, "another content type is a 415")
expect(post("/v1/chat/completions", b"x" * (9 << 20))[0] == 413, "9 MiB are a 413")
expect(post("/v1/chat/completions", b"{}", Host="evil.example")[0] == 403, "another Host is a 403")

# A client that goes away
stream = ask(stream=True, max_tokens=2000, extra_body={"winnow": {"ignore_eos": True}})
next(iter(stream))
stream.close()
time.sleep(1)
expect(ask(max_tokens=1).choices, "the server goes on after a client went away")
expect(json.loads(get("/health"))["status"] == "ok", "health")
expect("# TYPE" in get("/metrics"), "metrics")
print("openai_check: all of it as it should be")
