#!/usr/bin/env bash
# Tests and measures the CUDA backend beside PyTorch on a machine with a GPU, in one run, into one JSON:
#   bench/gpu/run.sh OUT.json [--quick]
# Builds first, unless WINNOW_BIN names a folder of programs built before. WINNOW_TEST_MODEL names the demo model. PyTorch and
# transformers are measured if `python3` has them. --quick: short prompts only. A step that fails leaves its part out and says so; a run that is
# stopped writes what it has.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out="${1:?usage: bench/gpu/run.sh OUT.json [--quick]}"
lengths=1024,4096,8192,16384,32768,131072 presets=4096,8192,16384,32768 peers=4096,8192,16384,32768,131072 blocks=32768,131072
if [[ "${2:-}" == --quick ]]; then lengths=1024,4096 presets=4096 peers=4096 blocks=32768; fi

bin="${WINNOW_BIN:-}"
if [[ -z "$bin" ]]; then
  cmake --preset release >/dev/null
  cmake --build --preset release --target winnow winnow_cuda_test cuda_ops sparse_attention_bench
  bin=build/release/bin
fi
parts="$(mktemp -d)"
# Also when it is stopped: what was measured until then is an answer.
join() { python3 bench/gpu/join_parts.py "$parts" "$out" && rm -rf "$parts"; }
trap join EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
step() {  # step NAME COMMAND...: what COMMAND prints is part NAME, where it writes none itself
  local name="$1" begin=$SECONDS
  shift
  if ! "$@" >"$parts/$name.out" 2>"$parts/$name.err"; then
    echo "bench/gpu: $name failed:" >&2
    tail -5 "$parts/$name.err" "$parts/$name.out" >&2
  fi
  [[ -s "$parts/$name.json" ]] || cp "$parts/$name.out" "$parts/$name.json"
  echo "bench/gpu: $name, $((SECONDS - begin)) s" >&2
}
profile() {  # profile NAME KIND OPTIONS...
  local name="$1" kind="$2"
  shift 2
  step "$name" "$bin/winnow" profile "$kind" --random-weights qwen2-7b --device cuda "$@" -o "$parts/$name.json"
}

step tests "$bin/winnow_cuda_test" --gtest_brief=1 "--gtest_output=json:$parts/tests.json"
step operations "$bin/cuda_ops" 4096 32768
step attention "$bin/sparse_attention_bench" time "$parts/attention.json"
profile dense prefill --lengths "$lengths" --policies dense --repeat 3
profile presets prefill --lengths "$presets" --policies dense,keep09,keep08,keep07 --repeat 3
profile blocks prefill --lengths "$blocks" --policies bench/gpu/keep08_blocks.json --repeat 3
profile final_caches prefill --lengths 4096 --repeat 1 \
  --policies dense,bench/gpu/keep09_final.json,bench/gpu/keep08_final.json,bench/gpu/keep07_final.json
profile decode end2end --lengths 4096 --policies dense,keep08 --new-tokens 65 --repeat 3
if python3 -c 'import torch, transformers' 2>/dev/null; then
  step peers python3 bench/gpu/peers.py --lengths "$peers" --decode
  step attention_peers python3 bench/gpu/sparse_attention_peers.py "$parts/attention_peers.json" --flex --long
fi
