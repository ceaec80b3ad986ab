#!/usr/bin/env bash
# Builds the libFuzzer targets (clang, address and undefined-behaviour sanitizers) and runs each for a while.
#   scripts/fuzz.sh [SECONDS [TARGET...]]        default: 60 seconds each of all targets
# Starts from fuzz/corpus/TARGET and the golden files. Inputs found are kept under build/fuzz/corpus/TARGET; a crash leaves
# its input in build/fuzz/crashes and exit 1: mend it, and put the input into fuzz/corpus/TARGET.
# Needs clang and libomp-dev.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly GOLDEN=tests/golden

seconds="${1:-60}"
[[ $# -eq 0 ]] || shift
if [[ $# -gt 0 ]]; then
  targets=("$@")
else
  mapfile -t targets < <(find fuzz -name '*_fuzz.cc' -printf '%f\n' | sed 's/\.cc$//' | sort)
fi

cmake --preset fuzz >/dev/null
cmake --build --preset fuzz --target "${targets[@]}"

seeds_of() {  # TARGET: paths of small valid inputs
  case "$1" in
    gguf_fuzz) find "$GOLDEN/formats" -name '*.gguf' ;;
    gguf_blocks_fuzz) find "$GOLDEN/formats" -name '*.blocks' ;;
    safetensors_fuzz) find "$GOLDEN/formats" "$GOLDEN/scorers" -name '*.safetensors' ;;
    hf_config_fuzz) find "$GOLDEN" -name config.json ;;
    tokenizer_fuzz) find "$GOLDEN/tokenizer/tiny" -name tokenizer.json ;;
    tokenizer_model_fuzz) find "$GOLDEN/tokenizer" -name tokenizer.model ;;
    request_fuzz) find "$GOLDEN/server" -name '*.json' ;;
    result_file_fuzz) find "$GOLDEN/report" policies -name '*.json' ;;
    policy_fuzz) find policies -name '*.json' ;;
  esac
}

mkdir -p build/fuzz/crashes
for target in "${targets[@]}"; do
  corpus="build/fuzz/corpus/$target"
  mkdir -p "$corpus"
  while read -r seed; do
    # The first byte tells tokenizer_fuzz what the rest is; 1: a tokenizer.json.
    { [[ "$target" != tokenizer_fuzz ]] || printf '\001'; cat "$seed"; } >"$corpus/$(tr / _ <<<"$seed")"
  done < <(seeds_of "$target")
  if [[ "$target" == tokenizer_fuzz ]]; then  # 4: a chat template
    python3 - "$GOLDEN/tokenizer/chat.json" "$corpus" <<'PY'
import json, pathlib, sys
templates = json.loads(pathlib.Path(sys.argv[1]).read_text())["templates"]
for number, template in enumerate(templates.values()):
    pathlib.Path(sys.argv[2], f"template_{number}").write_bytes(b"\x04" + template["jinja"].encode())
PY
  fi
  if [[ "$target" == chat_fuzz ]]; then  # a message begins with its role's byte
    python3 - "$GOLDEN/tokenizer/chat.json" "$corpus" <<'PY'
import json, pathlib, sys
role_bytes = {"system": b"\xf9", "user": b"\xfa", "assistant": b"\xf8"}
conversations = json.loads(pathlib.Path(sys.argv[1]).read_text())["conversations"]
for number, conversation in enumerate(conversations):
    messages = b"".join(role_bytes[m["role"]] + m["content"].encode() for m in conversation["messages"])
    for form in range(24):
        pathlib.Path(sys.argv[2], f"conversation_{number}_{form}").write_bytes(bytes([form, form % 4]) + messages)
PY
  fi
  echo "fuzz: $target, $seconds s" >&2
  "build/fuzz/bin/$target" -max_total_time="$seconds" -max_len=65536 -rss_limit_mb=2048 -timeout=20 \
    -print_final_stats=1 -artifact_prefix=build/fuzz/crashes/ "$corpus" "fuzz/corpus/$target"
done
