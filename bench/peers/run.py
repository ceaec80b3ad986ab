#!/usr/bin/env python3
"""Time to the first token of winnow beside its peers: one run, one text, the engines taking turns.

    bench/peers/setup.sh build/peers-venv
    python3 bench/peers/run.py --venv build/peers-venv --winnow build/release/bin/winnow -o build/peers.json

Every engine gets the same token ids on the same number of threads and computes the last token's logits only; no
tokenisation is counted and no prefix is reused. Each peer lives in a process of its own (engine.py) that loads once;
one prefill at a time runs on the machine: round after round, each engine one (winnow: one short `winnow profile` call,
which loads and warms up by itself), in an order that rotates. Before a length is measured every peer runs it once.
For llama.cpp the best of several weight types, flash attention on and off, is chosen first, apart for short and long
prompts. With --new-tokens N every engine also decodes N - 1 tokens after the first, and a second table has tokens per
second (llama.cpp's best configuration is then the one that decodes fastest at that length). Writes JSON (all samples) and prints Markdown (medians, min - max, ratios). 8,192 tokens is the demo model's
whole context: the one new token is chosen there, not fed back. Needs only the standard library.
"""

import argparse
import datetime
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
LICENSES = Path("/usr/share/common-licenses")  # on every Debian; together 12,839 tokens
TEXTS = [LICENSES / "GPL-3", LICENSES / "GFDL-1.3"]
BASE = "openvino-dense"  # what the ratios divide by; without it the first engine
LLAMA_LONG = 2048  # prompts longer than this use the configuration chosen at the longer probe
LLAMA_PROBES = (1024, 4096)

PEERS = {
    "openvino-dense": {"kind": "openvino", "mode": "dense"},
    "openvino-xattention": {"kind": "openvino", "mode": "xattention"},  # its defaults: threshold .8, block 64, stride 8
    "openvino-trishape": {"kind": "openvino", "mode": "trishape", "sparse": {
        "num_retained_start_tokens_in_cache": 128, "num_retained_recent_tokens_in_cache": 512}},
    # Decoding reads the weights once a token: fewer bytes may be faster.
    "openvino-q8_0": {"kind": "openvino", "mode": "dense", "weights": "q8_0"},
    "openvino-q4_1": {"kind": "openvino", "mode": "dense", "weights": "q4_1"},
    "transformers": {"kind": "transformers"},
}
LLAMA = {f"llama.cpp {weights}{' fa' if flash else ''}": {"kind": "llama.cpp", "weights": weights, "flash": flash,
                                                         "ubatch": 512}
         for weights in ("q4_1", "q8_0", "f16", "bf16") for flash in (False, True)}


def log(*words):
    print(*words, file=sys.stderr, flush=True)


class Engine:
    """A child process running engine.py."""

    def __init__(self, args, spec):
        spec = {**spec, "threads": args.threads, "models": str(args.venv.absolute() / "models")}
        env = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "TOKENIZERS_PARALLELISM": "false",
               "HF_HUB_OFFLINE": "1"}
        if spec["kind"] == "llama.cpp":  # it stalls at random unless pinned
            env |= {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores"}
        self.process = subprocess.Popen([args.venv.absolute() / "bin/python", HERE / "engine.py", json.dumps(spec)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=args.errors, env=env,
                                        text=True)
        self.version = self._read()["version"]

    def _read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the engine's process ended with {self.process.wait()}")
        return json.loads(line)

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._read()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Winnow:
    """One `winnow profile prefill` call per round measures all policies at one length."""

    def __init__(self, args, text):
        what = ["end2end", "--new-tokens", str(args.new_tokens)] if args.new_tokens > 1 else ["prefill"]
        self.command = [args.winnow, "profile", *what, "-m", args.model, "--policies", args.policies,
                        "--threads", str(args.threads), "--repeat", "1", *shlex.split(args.winnow_args)]
        help_text = subprocess.run([args.winnow, "profile", "--help-all"], capture_output=True, text=True).stdout
        flag = next((f for f in ("--text", "--file") if f in help_text), None)
        self.same_text = flag is not None
        if flag:
            self.command += [flag, text]
        self.version = subprocess.run([args.winnow, "--version"], capture_output=True, text=True).stdout.strip()

    def measure(self, length):
        with tempfile.NamedTemporaryFile(suffix=".json") as out:
            subprocess.run([*self.command, "--lengths", str(length), "-o", out.name], check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            return json.loads(Path(out.name).read_text())["results"]


def choose_llama(args, ids):
    """Times every llama.cpp configuration alone; the best for short and for long prompts, and all the timings."""
    timings, best = {}, {}
    probes = [n for n in LLAMA_PROBES if n <= max(args.lengths)] or [max(args.lengths)]
    for name, spec in LLAMA.items():
        if name.removeprefix("llama.cpp ") not in args.llama:
            continue
        try:
            engine = Engine(args, spec)
            engine.ask(ids=ids[:256])
            key = "decode_seconds" if args.new_tokens > 1 else "seconds"
            timings[name] = {n: min(engine.ask(ids=ids[:n], new_tokens=args.new_tokens)[key] for _ in range(2))
                             for n in probes}
            engine.close()
        except RuntimeError as error:
            timings[name] = {"error": str(error)}
        log(f"  {name}: {timings[name]}")
    for n in LLAMA_PROBES:
        probe = n if n in probes else probes[-1]
        best[n] = min((t[probe], name) for name, t in timings.items() if probe in t)[1]
    return best, timings


def tokenize(args, text):
    script = ("import sys, json; from tokenizers import Tokenizer; "
              "print(json.dumps(Tokenizer.from_file(sys.argv[1]).encode(open(sys.argv[2]).read()).ids))")
    output = subprocess.run([args.venv / "bin/python", "-c", script, args.venv / "models/hf/tokenizer.json", text],
                            check=True, capture_output=True, text=True).stdout
    return json.loads(output)


def measure(args, ids, text):
    """All samples: {engine: {length: {"seconds": [...], "token"}}}, peaks, versions and the llama.cpp probe."""
    names = [name for name in args.engines if name in PEERS]
    result = {"samples": {}, "peak_bytes": {}, "versions": {}, "gemm": []}
    gemm = Engine(args, {"kind": "gemm"})
    result["gemm"].append(gemm.ask(probe=True)["gflops"])

    llama_best = {}
    if "llama.cpp" in args.engines:
        log("choosing llama.cpp's configuration")
        llama_best, result["llama_probe"] = choose_llama(args, ids)
        result["llama_best"] = llama_best
    log("loading:", *names)
    engines = {name: Engine(args, PEERS[name]) for name in names}
    engines |= {name: Engine(args, LLAMA[name]) for name in set(llama_best.values()) - {None}}
    winnow = Winnow(args, text) if args.winnow else None

    def record(name, length, seconds, **more):
        cell = result["samples"].setdefault(name, {}).setdefault(length, {"seconds": [], "decode_seconds": []})
        cell["seconds"].append(seconds)
        if "decode_seconds" in more:
            cell["decode_seconds"].append(more.pop("decode_seconds"))
        cell.update(more)

    for length in args.lengths:
        llama_now = llama_best.get(LLAMA_PROBES[length > LLAMA_LONG])
        active = names + ([llama_now] if llama_now else [])
        log(f"length {length}:", *active)
        for name in active:
            engines[name].ask(ids=ids[:length], new_tokens=args.new_tokens)
        turns = active + (["winnow"] if winnow else [])
        for round_index in range(args.rounds):
            shift = round_index % len(turns)
            for name in turns[shift:] + turns[:shift]:
                if name == "winnow":
                    for row in winnow.measure(length):
                        policy = f"winnow {row['policy']}"
                        decode = ({"decode_seconds": statistics.median(row["samples"]["decode_ms"]) / 1000}
                                  if args.new_tokens > 1 else {})
                        record(policy, length, statistics.median(row["samples"]["prefill_ms"]) / 1000, **decode)
                        peak = result["peak_bytes"]
                        peak[policy] = max(peak.get(policy, 0), row.get("peak_memory_bytes", 0))
                else:
                    answer = engines[name].ask(ids=ids[:length], new_tokens=args.new_tokens)
                    shown = "llama.cpp" if name in LLAMA else name
                    record(shown, length, answer["seconds"], token=answer["token"],
                           **{key: answer[key] for key in ("decode_seconds",) if key in answer},
                           **({"configuration": name} if name in LLAMA else {}))
        log("  " + ", ".join(f"{name} {statistics.median(cells[length]['seconds']):.3f}"
                             for name, cells in result["samples"].items() if length in cells))

    for name, engine in engines.items():
        shown = "llama.cpp" if name in LLAMA else name
        result["versions"][shown] = engine.version
        if name not in LLAMA or name == llama_now:
            result["peak_bytes"][shown] = engine.ask(peak=True)["peak_bytes"]
        engine.close()
    if winnow:
        result["versions"]["winnow"] = winnow.version
        result["winnow_same_text"] = winnow.same_text
    result["gemm"].append(gemm.ask(probe=True)["gflops"])
    gemm.close()
    return result


def cpu_name():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def cpu_flags():
    flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    return [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
            if flag in flags.split()]


def decode_table(report, lengths):
    steps = report["new_tokens"] - 1
    lines = ["", f"Tokens per second over {steps} decoded tokens after a prompt of that length: median (min - max); x: "
             f"times the fastest peer's.", "", "| engine | " + " | ".join(f"{n:,}" for n in lengths) + " |",
             "|---" * (len(lengths) + 1) + "|"]
    rates = {name: {n: sorted(steps / s for s in cells[n]["decode_seconds"]) for n in lengths if n in cells}
             for name, cells in report["samples"].items()}
    fastest = {n: max((statistics.median(cells[n]) for name, cells in rates.items()
                       if n in cells and not name.startswith("winnow")), default=None) for n in lengths}
    for name, cells in rates.items():
        row = []
        for n in lengths:
            if not cells.get(n):
                row.append("")
                continue
            text = f"**{statistics.median(cells[n]):.1f}** ({cells[n][0]:.1f} - {cells[n][-1]:.1f})"
            if name.startswith("winnow") and fastest[n]:
                text += f" {statistics.median(cells[n]) / fastest[n]:.2f}x"
            row.append(text)
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    return lines


def markdown(report, lengths):
    samples, lines = report["samples"], []
    shown = lambda n: f"{n:,}"
    base_name = BASE if BASE in samples else next(iter(samples))
    base = samples[base_name]
    lines += [f"Seconds to the first token: median (min - max) of {report['rounds']} rounds; "
              f"x: times faster than {base_name}.", "",
              "| engine | " + " | ".join(map(shown, lengths)) + f" | peak RSS at {lengths[-1]:,} |",
              "|---" * (len(lengths) + 2) + "|"]
    for name, cells in samples.items():
        row = []
        for n in lengths:
            if n not in cells:
                row.append("")
                continue
            seconds = cells[n]["seconds"]
            text = f"**{statistics.median(seconds):.3f}** ({min(seconds):.3f} - {max(seconds):.3f})"
            if n in base and name != base_name:
                text += f" {statistics.median(base[n]['seconds']) / statistics.median(seconds):.2f}x"
            row.append(text)
        peak = report["peak_bytes"].get(name)
        lines.append(f"| {name} | " + " | ".join(row) + f" | {f'{peak / 2**30:.2f} GiB' if peak else ''} |")
    if report["new_tokens"] > 1:
        lines += decode_table(report, lengths)
    peak = lambda kind: max(max(probe[kind]["gflops"]) for probe in report["gemm"])
    machine = report["machine"]
    lines += ["", f"Machine: {machine['cpu']}, {report['threads']} threads, {' '.join(machine['flags'])}; torch "
              f"GEMM {peak('bfloat16'):.0f} GFLOP/s bf16, {peak('float32'):.0f} f32."]
    first = {n: {name: cells[n]["token"] for name, cells in samples.items() if "token" in cells.get(n, {})}
             for n in lengths}
    differ = {n: {name: token for name, token in tokens.items() if token != tokens.get(base_name)}
              for n, tokens in first.items() if base_name in tokens}
    lines += ["First token unlike " + base_name + "'s: " +
              ("; ".join(f"{n:,}: {', '.join(t)}" for n, t in differ.items() if t) or "none") + "."]
    if "llama_best" in report:
        best = {cells["configuration"] for cells in samples["llama.cpp"].values()}
        lines += ["llama.cpp, chosen of " + str(len(report["llama_probe"])) + " configurations: " + ", ".join(sorted(best)) + "."]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=Path("build/peers-venv"), help="made by setup.sh")
    parser.add_argument("--winnow", help="the winnow program (left out: peers only)")
    parser.add_argument("--model", help="winnow's model (default: the demo model)")
    parser.add_argument("--policies", default="dense,keep09,keep08,keep07")
    parser.add_argument("--winnow-args", default="", help="more arguments for `winnow profile`")
    parser.add_argument("--engines", default=",".join([*PEERS, "llama.cpp"]))
    parser.add_argument("--llama", default=",".join(name.removeprefix("llama.cpp ") for name in LLAMA),
                        help="llama.cpp's configurations to choose the best of")
    parser.add_argument("--lengths", default="512,1024,2048,4096,8192")
    parser.add_argument("--new-tokens", type=int, default=1, help="more than 1: decoding is measured too")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--out", type=Path, help="JSON file; the Markdown goes beside it and to stdout")
    args = parser.parse_args()
    args.engines = [name for name in args.engines.split(",") if name]
    args.lengths = sorted(int(n) for n in args.lengths.split(","))
    args.llama = args.llama.split(",")
    if unknown := {f"llama.cpp {name}" for name in args.llama} - set(LLAMA):
        parser.error(f"unknown configurations: {', '.join(unknown)}")
    unknown = set(args.engines) - {*PEERS, "llama.cpp"}
    if unknown:
        parser.error(f"unknown engines: {', '.join(unknown)} (known: {', '.join([*PEERS, 'llama.cpp'])})")
    args.model = args.model or os.path.realpath(args.venv / "models/q4_1.gguf")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
    args.errors = open(args.out.with_suffix(".log"), "w") if args.out else subprocess.DEVNULL

    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_text("".join(path.read_text() for path in TEXTS))
        ids = tokenize(args, text)
        if len(ids) < args.lengths[-1]:
            parser.error(f"the text has {len(ids)} tokens only")
        result = measure(args, ids, text)
    report = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "flags": cpu_flags(), "kernel": platform.release(),
                    "load_average": os.getloadavg()},
        "threads": args.threads, "rounds": args.rounds, "lengths": args.lengths, "new_tokens": args.new_tokens,
        "text": [path.name for path in TEXTS], **result,
    }
    table = markdown(report, args.lengths)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(table + "\n")
    print(table)


if __name__ == "__main__":
    main()
