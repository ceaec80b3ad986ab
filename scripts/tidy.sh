#!/usr/bin/env bash
# Runs clang-tidy (.clang-tidy) over the sources, or over the files named.
#   scripts/tidy.sh [FILE...]
# Needs clang-tidy 14 or later and, for the sources that use OpenMP, libomp-dev.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v clang-tidy >/dev/null || { echo "tidy: clang-tidy is not here (apt-get install clang-tidy)" >&2; exit 1; }

cmake --preset dev >/dev/null  # writes compile_commands.json
if [[ $# -gt 0 ]]; then
  files=("$@")
else
  # What this machine's build has: GPU code only beside CUDA's headers.
  mapfile -t files < <(python3 - <<'PY'
import json, os
files = {os.path.relpath(entry["file"]) for entry in json.load(open("build/dev/compile_commands.json"))}
print("\n".join(sorted(f for f in files if f.startswith("src/") and f.endswith(".cc") and not f.endswith("unicode_data.cc"))))
PY
  )
fi
# g++'s own warning options and target attributes are unknown to clang.
printf '%s\0' "${files[@]}" |
  xargs -0 -n 1 -P "$(nproc)" clang-tidy --quiet -p build/dev --extra-arg=-Wno-unknown-warning-option --extra-arg=-Wno-ignored-attributes --extra-arg=-Wno-string-concatenation
