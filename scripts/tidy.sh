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
  mapfile -t files < <(find src -name '*.cc' -not -name unicode_data.cc | sort)
fi
# g++'s own warning options are unknown to clang.
printf '%s\0' "${files[@]}" |
  xargs -0 -n 1 -P "$(nproc)" clang-tidy --quiet -p build/dev --extra-arg=-Wno-unknown-warning-option
