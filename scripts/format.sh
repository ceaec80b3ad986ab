#!/usr/bin/env bash
# Formats the C++ sources with clang-format 14 (.clang-format); other versions format differently.
#   scripts/format.sh            rewrites the files
#   scripts/format.sh --check    changes nothing; lists the files that differ, exit 1 if there are any
#   scripts/format.sh --found    exit 0 if clang-format 14 is here
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tool=""
for candidate in clang-format-14 clang-format; do
  if command -v "$candidate" >/dev/null && "$candidate" --version | grep -q 'version 14\.'; then
    tool="$candidate"
    break
  fi
done
[[ "${1:-}" != --found ]] || { [[ -n "$tool" ]]; exit; }
[[ -n "$tool" ]] || { echo "format: clang-format 14 is needed (Debian 12: apt-get install clang-format)" >&2; exit 1; }

# Written by a script, not by hand.
readonly GENERATED="src/tokenizer/unicode_data.cc"
mapfile -t files < <(find include src python tests bench fuzz \( -name '*.cc' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \) -not -path "$GENERATED" | sort)

case "${1:-}" in
  "") exec "$tool" -i "${files[@]}" ;;
  --check) ;;
  *) echo "usage: $0 [--check | --found]" >&2; exit 2 ;;
esac

different=0
for file in "${files[@]}"; do
  if ! "$tool" "$file" | cmp -s - "$file"; then
    echo "$file"
    different=$((different + 1))
  fi
done
echo "format: ${#files[@]} files, $different to format" >&2
[[ "$different" -eq 0 ]]
