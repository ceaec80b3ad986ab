#!/usr/bin/env python3
"""What the server adds to the time to the first token: `winnow serve` from a client's side against `winnow profile`.

    bench/server_ttft.py WINNOW MODEL [--lengths 1024,4096] [--policies dense,keep08] [--repeat 5]

Starts a server, sends prompts of exactly so many tokens as ids, streamed and without the prefix cache, and takes the time
from sending the request to the first chunk. Then the same lengths and policies by `winnow profile prefill`, which is warm
as the server is. Prints a line of JSON for each: medians in ms and what the server adds. Standard library only.
"""

import argparse
import http.client
import json
import pathlib
import re
import statistics
import subprocess
import tempfile
import time


def start_server(winnow, model, log):
    server = subprocess.Popen([winnow, "serve", "-m", model, "--port", "0"], stderr=open(log, "w"))
    for _ in range(600):
        found = re.search(r"http://127\.0\.0\.1:(\d+)", pathlib.Path(log).read_text())
        if found:
            return server, int(found.group(1))
        time.sleep(0.1)
    raise SystemExit("the server did not start")


def post(connection, path, body):
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    return connection.getresponse()


def first_token_ms(connection, ids, policy):
    begin = time.perf_counter()
    response = post(connection, "/v1/completions", {
        "prompt": ids, "max_tokens": 1, "temperature": 0, "stream": True, "winnow": {"policy": policy, "prefix_cache": False}})
    line = response.readline()
    ms = 1000 * (time.perf_counter() - begin)
    inside = json.loads(line.removeprefix(b"data: "))["winnow"]["ttft_ms"]
    response.read()
    return ms, inside


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("winnow")
    parser.add_argument("model")
    parser.add_argument("--lengths", default="1024,4096")
    parser.add_argument("--policies", default="dense,keep08")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    lengths, policies = [int(n) for n in options.lengths.split(",")], options.policies.split(",")

    text = (pathlib.Path(__file__).resolve().parent.parent / "README.md").read_text() * 8
    served = {}
    with tempfile.TemporaryDirectory() as folder:
        server, port = start_server(options.winnow, options.model, folder + "/log")
        connection = http.client.HTTPConnection("127.0.0.1", port)
        ids = json.loads(post(connection, "/tokenize", {"content": text}).read())["tokens"]
        for length in lengths:
            for policy in policies:
                times = [first_token_ms(connection, ids[:length], policy) for _ in range(options.repeat + 1)][1:]
                served[length, policy] = [statistics.median(column) for column in zip(*times)]
        connection.close()
        server.terminate()
        server.wait()
        subprocess.run([options.winnow, "profile", "prefill", "-m", options.model, "--lengths", options.lengths, "--policies",
                        options.policies, "--repeat", str(options.repeat), "-o", folder + "/profile.json"], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        profile = json.loads(pathlib.Path(folder, "profile.json").read_text())
    for result in profile["results"]:
        client, inside = served[result["length"], result["policy"]]
        own = result["prefill_ms"] if isinstance(result["prefill_ms"], (int, float)) else result["prefill_ms"]["median"]
        print(json.dumps({"tokens": result["length"], "policy": result["policy"], "profile_ms": round(own, 1), "client_ms": round(client, 1),
                          "server_says_ms": round(inside, 1), "added": round(client / own - 1, 4)}))


if __name__ == "__main__":
    main()
