#!/usr/bin/env python3
"""Joins the parts of bench/gpu/run.sh into one JSON, with the machine's name and what follows from them.

  join_parts.py PARTS OUT.json
"""
import json
import os
import pathlib
import subprocess
import sys


def machine():
    fields = "name,driver_version,power.limit"
    gpu = subprocess.run(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"], capture_output=True, text=True)
    return {"gpus": gpu.stdout.strip().splitlines(), "cores": os.cpu_count()}


def prefills(report, part):
    return {(r["length"], r["policy"]): r for r in report.get(part, {}).get("results", [])}


def summary(report):
    """Times to the first token against transformers, shares of the speed-up that FLOPs allow, shares of dense caches."""
    peers = {int(n): r["ms"] for n, r in report.get("peers", {}).get("prefill", {}).items()}
    result = {"prefill": [], "caches": [], "decode_ms_per_token": {}}
    presets = prefills(report, "presets")
    dense = {**presets, **{k: r for k, r in prefills(report, "dense").items() if k not in presets}}
    for (length, policy), r in sorted({**dense, **prefills(report, "blocks")}.items()):
        row = {"length": length, "policy": policy, "ttft_ms": r["ttft_ms"], "density": r["density"]}
        if length in peers:
            row["transformers_ms"] = peers[length]
            row["against_transformers"] = peers[length] / r["ttft_ms"]
        own = dense.get((length, "dense"))
        if own and policy != "dense":
            row["against_dense"] = own["ttft_ms"] / r["ttft_ms"]
            row["share_of_flop_speedup"] = row["against_dense"] / (own["flops"] / r["flops"])
        result["prefill"].append(row)
    for r in report.get("decode", {}).get("results", []):
        result["decode_ms_per_token"][r["policy"]] = r["decode_ms"] / (r["new_tokens"] - 1)
    for part in ("presets", "final_caches"):
        found = prefills(report, part)
        for (length, policy), r in sorted(found.items()):
            if policy != "dense" and (length, "dense") in found:
                result["caches"].append({"part": part, "length": length, "policy": policy,
                                         "of_dense": r["kv_bytes"] / found[length, "dense"]["kv_bytes"]})
    result["attention"] = attention(report)
    return result


def attention(report):
    """Attention over plans, planning included, against cuDNN's dense and FlexAttention's time at about that density."""
    peers = [r for r in report.get("attention_peers", {}).get("peers", []) if r["head_dim"] == 128]
    rows = []
    for r in report.get("attention", {}).get("with_planning", []):
        row = {k: r[k] for k in ("tokens", "planner", "blocks", "density", "total_ms")}
        for peer in peers:
            same = peer["tokens"] == r["tokens"] and (peer["peer"] == "cuDNN" or abs(peer["density"] - r["density"]) < 0.05)
            if same:
                row[f"{peer['peer']}_ms"] = peer["ms"]
                row[f"against_{peer['peer']}"] = peer["ms"] / r["total_ms"]
        rows.append(row)
    return rows


def main():
    parts, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    report = {"machine": machine()}
    for path in sorted(parts.glob("*.json")):
        try:
            report[path.stem] = json.loads(path.read_text())
        except ValueError:
            report[path.stem] = {"failed": (parts / f"{path.stem}.err").read_text()[-2000:]}
    report["summary"] = summary(report)
    out.write_text(json.dumps(report, indent=1) + "\n")
    json.dump(report["summary"], sys.stdout, indent=1)


main()
