#!/usr/bin/env python3
"""Load on a running winnow serve: many clients at once, each asking again and again over one connection.

    bench/server_load.py --url http://127.0.0.1:8080 --clients 64 --requests 4000 --max-tokens 8
    bench/server_load.py ... --clients 1 --requests 4 --max-tokens 128 --ignore-eos     (tokens/s of one client)

Standard library only. Prints one JSON object: requests, statuses, what was lost, latencies, tokens/s, and the memory of
the server (with --pid) before, in the middle and after. A request that is refused with 429 is asked again after
Retry-After. Exit 1 when an answer was lost or wrong.
"""

import argparse
import asyncio
import json
import statistics
import time
from urllib.parse import urlparse


def rss_mib(pid):
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("VmRSS:"):
                return round(int(line.split()[1]) / 1024, 1)
    return None


class Client:
    def __init__(self, host, port):
        self.host, self.port, self.reader, self.writer = host, port, None, None

    async def post(self, path, body):
        """(status, headers, body) of one request; connects when there is no connection."""
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        text = json.dumps(body).encode()
        self.writer.write(
            f"POST {path} HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(text)}\r\n\r\n".encode() + text)
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in head[1:])}
        answer = await self.reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            self.writer.close()
            self.writer = None
        return int(head[0].split()[1]), headers, json.loads(answer)


async def run(options):
    url = urlparse(options.url)
    left = options.requests
    statuses, latencies, tokens, retries, lost = {}, [], 0, 0, []
    memory = [rss_mib(options.pid)] if options.pid else []

    async def work(number):
        nonlocal left, tokens, retries
        client = Client(url.hostname, url.port)
        while left > 0:
            left -= 1
            index = left
            if options.pid and index == options.requests // 2:
                memory.append(rss_mib(options.pid))
            text = f"{options.prompt} {index}" if options.vary else options.prompt
            body = {"messages": [{"role": "user", "content": text}], "temperature": 0,
                    "max_tokens": options.max_tokens,
                    "winnow": {"policy": options.policy, "ignore_eos": options.ignore_eos, "prefix_cache": options.prefix_cache}}
            start = time.perf_counter()
            while True:
                try:
                    status, headers, answer = await client.post("/v1/chat/completions", body)
                except (OSError, asyncio.IncompleteReadError, KeyError, ValueError) as error:
                    lost.append(repr(error))
                    client.writer = None
                    break
                statuses[status] = statuses.get(status, 0) + 1
                if status == 429:
                    retries += 1
                    await asyncio.sleep(float(headers["retry-after"]))
                    continue
                if status == 200:
                    tokens += answer["usage"]["completion_tokens"]
                    latencies.append(time.perf_counter() - start)
                else:
                    lost.append(answer)
                break

    start = time.perf_counter()
    await asyncio.gather(*(work(number) for number in range(options.clients)))
    seconds = time.perf_counter() - start
    if options.pid:
        memory.append(rss_mib(options.pid))
    latencies.sort()
    percentile = lambda share: round(1000 * latencies[min(len(latencies) - 1, int(share * len(latencies)))], 1)
    print(json.dumps({
        "clients": options.clients, "requests": options.requests, "answered": len(latencies), "lost": len(lost),
        "statuses": statuses, "retries_after_429": retries, "seconds": round(seconds, 2),
        "requests_per_s": round(len(latencies) / seconds, 1), "tokens_per_s": round(tokens / seconds, 1),
        "latency_ms": {"median": round(1000 * statistics.median(latencies), 1), "p95": percentile(.95), "p99": percentile(.99)}
        if latencies else None,
        "server_rss_mib": memory, "first_losses": lost[:3]}))
    return 1 if lost or len(latencies) != options.requests else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--max-tokens", type=int, default=8)
    parser.add_argument("--prompt", default="Tell me about corn, wind and mills.")
    parser.add_argument("--policy", default="default")
    parser.add_argument("--vary", action="store_true", help="another prompt every time")
    parser.add_argument("--ignore-eos", action="store_true", help="answers of exactly --max-tokens")
    parser.add_argument("--prefix-cache", action="store_true", help="let prompts share prefixes")
    parser.add_argument("--pid", type=int, help="the server's process, to watch its memory")
    raise SystemExit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
