#!/usr/bin/env bash
# Installs the peers of bench/peers/run.py into a virtual environment, and writes the demo model in their formats.
#   bench/peers/setup.sh [VENV]        (default: build/peers-venv; about 10 GB, 10 minutes on two cores)
# Needs python3 (3.10+) with venv, cmake and a C++ compiler. Run it again to repair or finish.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
venv="${1:-$root/build/peers-venv}"
model="$("$root/scripts/get_model.sh" smollm2-135m)"

[[ -x "$venv/bin/python" ]] || python3 -m venv "$venv"
venv="$(cd "$venv" && pwd)"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

pip install --quiet --upgrade pip
pip install openvino-genai==2026.4.1.0 torch==2.15.0 transformers==5.23.0 \
  gguf==0.19.0 safetensors tokenizers

# llama.cpp, built for this machine. Its AMX kernels crash on this model's quantised weights on some machines
# (ggml-org/llama.cpp#20824): if a prefill of the demo model does not survive, build again without them.
build_llama() {
  CMAKE_ARGS="-DGGML_NATIVE=ON" CMAKE_BUILD_PARALLEL_LEVEL="$(nproc)" \
    pip install --no-cache-dir --no-binary llama-cpp-python "$@" llama-cpp-python==0.3.36
}
llama_works() {
  "$venv/bin/python" - "$model" >/dev/null 2>&1 <<'PY'
import sys, llama_cpp
llama_cpp.Llama(sys.argv[1], n_ctx=512, n_threads=2, n_threads_batch=2, verbose=False).eval(list(range(1000, 1512)))
PY
}
"$venv/bin/python" -c "import llama_cpp" 2>/dev/null || build_llama
if ! llama_works; then
  echo "setup: llama.cpp crashes, building it again without AMX" >&2
  no_amx="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
  CFLAGS="$no_amx" CXXFLAGS="$no_amx" build_llama --force-reinstall --no-deps
  llama_works || { echo "setup: llama.cpp still crashes" >&2; exit 1; }
fi

# The demo model as the peers take it: GGUF for llama.cpp and OpenVINO GenAI, a Hugging Face folder for transformers.
models="$venv/models"
mkdir -p "$models"
ln -sf "$model" "$models/q4_1.gguf"
for type in f16 bf16 q8_0; do
  [[ -f "$models/$type.gguf" ]] && continue
  "$venv/bin/python" "$here/requantize.py" "$model" "$models/$type.tmp" "$type"
  mv "$models/$type.tmp" "$models/$type.gguf"
done
[[ -f "$models/hf/tokenizer.json" ]] ||
  "$venv/bin/python" "$root/scripts/make_smollm2_golden.py" --gguf "$model" --hf-only --hf-out "$models/hf"
echo "$venv"
