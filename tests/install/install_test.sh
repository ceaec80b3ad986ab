#!/usr/bin/env bash
# install_test.sh SOURCE BUILD MODEL: installs a built tree and uses it from outside.
set -euo pipefail
source_tree="$1" build="$2" model="$3"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
prefix="$scratch/usr"
fail() { echo "install_test: $*" >&2; exit 1; }

cmake --install "$build" --prefix "$prefix" >/dev/null
unset WINNOW_DATA_DIR

# Only what users need, and no path of the tree it was built in.
[[ -z "$(find "$prefix" -name '*.a')" ]] || fail "static libraries are installed"
[[ "$(cd "$prefix/include" && find . -type f)" == ./winnow/winnow.h ]] || fail "other headers than winnow.h are installed"
for tree in "$source_tree" "$build"; do
  found="$(grep -rlaF "$tree/" "$prefix" || true)"
  [[ -z "$found" ]] || fail "the path $tree is in: $found"
done

# The library shows the functions of its header, and nothing else.
library="$(find "$prefix" -name libwinnow.so)"
declared="$(grep -o '^WINNOW_API .*' "$prefix/include/winnow/winnow.h" | grep -oE 'winnow_[a-z_]+\(' | tr -d '(' | sort)"
exported="$(nm -D --defined-only "$library" | awk '$2 != "A" {sub(/@.*/, "", $3); print $3}' | sort)"
diff <(echo "$declared") <(echo "$exported") || fail "the header's functions (<) are not the library's symbols (>)"
soname="$(objdump -p "$library" | awk '$1 == "SONAME" {print $2}')"
abi="$(awk '$2 == "WINNOW_ABI_VERSION" {print $3}' "$prefix/include/winnow/winnow.h")"
[[ "$soname" == "libwinnow.so.$abi" ]] || fail "the soname is $soname, the header says $abi"

# A C program of its own finds the package, and works.
cmake -G Ninja -S "$source_tree/examples/c" -B "$scratch/example" -DCMAKE_PREFIX_PATH="$prefix" \
  -DCMAKE_C_FLAGS="-Wall -Wextra -Wpedantic -Werror ${WINNOW_EXAMPLE_FLAGS:-}" >/dev/null
cmake --build "$scratch/example" >/dev/null
policy='{"version": 1, "tokens": {"stages": [{"layer": 2, "keep": 0.5}], "protect_tail": {"min": 4, "share": 0.0}}}'
said="$("$scratch/example/ask" "$model" "$policy" "The quick brown fox jumps over the lazy dog and runs away." 2>&1)"
[[ "$said" == *"before layer 2: "* ]] || fail "the example said: $said"
if "$scratch/example/ask" "$scratch/nothing.gguf" dense x 2>"$scratch/error"; then fail "a missing model was opened"; fi
grep -q "nothing.gguf" "$scratch/error" || fail "the error names no file: $(cat "$scratch/error")"

# The installed program finds the texts and policies beside it.
winnow="$prefix/bin/winnow"
"$winnow" sparsity -m "$model" --threads 1 --length 32 --end-to-end none --json >"$scratch/sparsity.json"
"$winnow" policy check "$prefix/share/winnow/policies/smollm2-135m.json" >/dev/null
if [[ -n "${WINNOW_TEST_MODEL:-}" ]]; then
  "$winnow" run -m "$WINNOW_TEST_MODEL" --policy auto -p "Once upon a time" -n 1 >/dev/null 2>"$scratch/error" ||
    fail "--policy auto: $(cat "$scratch/error")"
fi

# Manual and completions are there.
for page in man/man1/winnow.1 bash-completion/completions/winnow zsh/site-functions/_winnow \
  fish/vendor_completions.d/winnow.fish; do
  [[ -s "$prefix/share/$page" ]] || fail "no $page"
done
