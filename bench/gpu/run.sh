#!/usr/bin/env bash
# Tests and measures the CUDA backend beside PyTorch on a machine with a GPU, in one run, into one JSON:
#   bench/gpu/run.sh OUT.json [--quick]
# Builds first, unless WINNOW_BIN names a folder of programs built before. WINNOW_TEST_MODEL names the demo model. PyTorch and
# transformers are measured if `python3` has them. --quick: short prompts only.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out="${1:?usage: bench/gpu/run.sh OUT.json [--quick]}"
lengths=1024,4096,8192,16384,32768,131072 peer_lengths=4096,8192,16384,32768,131072 presets=4096,8192,16384,32768
if [[ "${2:-}" == --quick ]]; then lengths=1024,4096 peer_lengths=4096 presets=4096; fi
say() { echo "bench/gpu: $*" >&2; }

bin="${WINNOW_BIN:-}"
if [[ -z "$bin" ]]; then
  cmake --preset release >/dev/null
  cmake --build --preset release --target winnow winnow_cuda_test cuda_ops
  bin=build/release/bin
fi
parts="$(mktemp -d)"
trap 'rm -rf "$parts"' EXIT

say tests
"$bin/winnow_cuda_test" --gtest_brief=1 --gtest_output="json:$parts/tests.json" >&2 || say "some tests failed"
say operations
"$bin/cuda_ops" 4096 32768 >"$parts/ops.json"
say prefill
"$bin/winnow" profile prefill --random-weights qwen2-7b --device cuda --lengths "$lengths" --policies dense --repeat 3 -o "$parts/dense.json" >&2
"$bin/winnow" profile prefill --random-weights qwen2-7b --device cuda --lengths "$presets" --policies dense,keep09,keep08,keep07 --repeat 3 \
  -o "$parts/presets.json" >&2
say decode
"$bin/winnow" profile end2end --random-weights qwen2-7b --device cuda --lengths 4096 --policies dense,keep08 --new-tokens 65 --repeat 3 \
  -o "$parts/decode.json" >&2
if python3 -c 'import torch, transformers' 2>/dev/null; then
  say PyTorch
  python3 bench/gpu/peers.py --lengths "$peer_lengths" --decode --attention --flex >"$parts/peers.json"
fi
python3 - "$parts" "$out" <<'PY'
import json, pathlib, sys
parts, out = pathlib.Path(sys.argv[1]), sys.argv[2]
report = {path.stem: json.loads(path.read_text()) for path in sorted(parts.glob("*.json"))}
pathlib.Path(out).write_text(json.dumps(report, indent=1) + "\n")
PY
say "wrote $out"
