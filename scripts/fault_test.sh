#!/usr/bin/env bash
# Full disks, read-only folders, files that change while they are read, limits and closed pipes: what winnow says then.
# A command that meets a fault must end with exit code 1 and a message, never by a signal, and must leave what was there before.
#   scripts/fault_test.sh [PROGRAM]        default: build/release/bin/winnow; needs root, for small file systems
# Prints a line for each fault; exit 1 when one went wrong.
# shellcheck disable=SC2016 # the inner shells expand what they are given
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
program="$(realpath "${1:-build/release/bin/winnow}")"
model="$PWD/tests/golden/models/tiny-llama.gguf"
[[ $EUID -eq 0 ]] || { echo "fault_test: needs root, to mount small file systems" >&2; exit 1; }
export XDG_CACHE_HOME GOMP_SPINCOUNT=200
work="$(mktemp -d)" XDG_CACHE_HOME="$work/cache"
disk="$work/disk"
mkdir -p "$disk"
trap 'umount -l "$disk" 2>/dev/null; rm -rf "$work"' EXIT
mount -t tmpfs -o size=64k tmpfs "$disk"

python3 - "$work" <<'PY'
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
words = lambda count: "".join("wind " if i % 7 == 0 else "and " if i % 3 == 0 else "corn " for i in range(count))
(folder / "text.txt").write_text("".join(words(5 + i % 5) + "turns.\n" for i in range(400)))
(folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": words(20)}) + "\n" for _ in range(40)))
(folder / "policy.json").write_text('{"version": 1, "tokens": {"stages": [{"layer": 2, "keep": 0.5}], "protect_head": 1}}')
PY

failed=0
# try WHAT CODES MESSAGE COMMAND...: the exit code must be one of CODES, the last line of stderr must hold MESSAGE.
try() {
  local what="$1" codes="$2" message="$3" code said
  shift 3
  timeout 120 "$@" >"$work/out" 2>"$work/err"
  code=$?
  said="$(tr '\r' '\n' <"$work/err" | grep -v '^$' | tail -1 | sed "s#$work/##g")"
  if [[ " $codes " == *" $code "* && "$said" == *"$message"* ]]; then
    echo "ok: $what: exit $code: $said"
  else
    echo "WRONG: $what: exit $code: $said"
    failed=1
  fi
}
fill() { rm -rf "${disk:?}"/*; echo old >"$disk/out"; dd if=/dev/zero of="$disk/filler" bs=1k count="$1" status=none 2>/dev/null; }
old_is_there() { [[ "$(cat "$disk/out")" == old ]] || { echo "WRONG: $1: the earlier file is gone"; failed=1; }; }
export program model
on_tiny=(-m "$model" --threads 1)

for state in full read-only; do
  case "$state" in
    full) fill 200; why="No space left" ;;
    read-only) fill 0; mount -o remount,ro "$disk"; why="Read-only file system" ;;
  esac
  try "eval, disk $state" 1 "$why" "$program" eval "${on_tiny[@]}" --text "$work/text.txt" --lengths 400 --windows 30 --n 30 --tasks kl --policies dense -o "$disk/out"
  try "calibrate, disk $state" 1 "$why" "$program" calibrate "${on_tiny[@]}" -f "$work/text.txt" --length 500 --search-windows 2 --search-needles 2 --held-out-windows 2 --held-out-needles 2 --max-kl 100 --min-niah 0 -o "$disk/out"
  try "train, disk $state" 1 "$why" "$program" train "${on_tiny[@]}" --data "$work/text.txt" --policy "$work/policy.json" --windows 8 --validation-windows 2 --window-tokens 400 -o "$disk/out"
  try "profile, disk $state" 1 "$why" "$program" profile prefill "${on_tiny[@]}" --lengths 64 --policies dense --repeat 1 -o "$disk/out"
  try "sparsity, disk $state" 1 "$why" "$program" sparsity "${on_tiny[@]}" --text "$work/text.txt" --length 256 -o "$disk/out"
  try "report, disk $state" 1 "$why" "$program" report "$work/policy.json" -o "$disk/out"
  old_is_there "disk $state"
  try "batch, disk $state" 1 "$why" "$program" batch "${on_tiny[@]}" "$work/prompts.jsonl" -n 8 -o "$disk/answers"
done
mount -o remount,rw "$disk"

# The disk fills up in the middle: what was finished stays, and the run goes on once there is room.
fill 30
try "batch, the disk fills up" 1 "No space left" "$program" batch "${on_tiny[@]}" "$work/prompts.jsonl" -n 8 -o "$disk/answers"
before="$(wc -l <"$disk/answers")"
rm -f "$disk/filler"; mount -o remount,size=4m "$disk"
try "batch, with room again" 0 "" "$program" batch "${on_tiny[@]}" "$work/prompts.jsonl" -n 8 -o "$disk/answers"
[[ "$(wc -l <"$disk/answers")" -eq 40 ]] || { echo "WRONG: batch: $(wc -l <"$disk/answers") of 40 answers"; failed=1; }
echo "    $before answers were there when the disk was full, 40 at the end"
mount -o remount,size=64k "$disk"; rm -rf "${disk:?}"/*; fill 20
try "eval, the disk fills up" 1 "No space left" "$program" eval "${on_tiny[@]}" --text "$work/text.txt" --lengths 400 --windows 60 --n 60 --tasks kl,niah --policies dense -o "$disk/result"
before="$(wc -l <"$disk/result.partial.jsonl")"
rm -f "$disk/filler"; mount -o remount,size=4m "$disk"
try "eval, with room again" 0 "" "$program" eval "${on_tiny[@]}" --text "$work/text.txt" --lengths 400 --windows 60 --n 60 --tasks kl,niah --policies dense -o "$disk/result"
echo "    $((before - 1)) samples were in the journal when the disk was full"

# Files that change while they are mapped: the demo model, which takes a while to load.
if large="$(scripts/get_model.sh smollm2-135m 2>/dev/null)"; then
  for delay in 0.05 0.1 0.2; do
    cp "$large" "$work/large.gguf"
    ( sleep "$delay"; truncate -s 1M "$work/large.gguf" ) &
    try "a model cut short after $delay s of loading" "0 1" "" "$program" run -m "$work/large.gguf" --threads 1 -p hello -n 1
    wait
    cp "$large" "$work/large.gguf"
    ( sleep "$delay"; dd if=/dev/urandom of="$work/large.gguf" bs=1M seek=2 count=60 conv=notrunc status=none ) &
    try "a model overwritten after $delay s of loading" "0 1" "" "$program" run -m "$work/large.gguf" --threads 1 -p hello -n 1
    wait
  done
fi

# Where results go.
try "stdout on a full disk" 1 "cannot write to stdout" bash -c '"$program" run -m "$model" --threads 1 -p corn -n 4 --json >/dev/full'
try "stdout closed" 1 "" bash -c '"$program" run -m "$model" --threads 1 -p corn -n 4 --json >&-'
try "a reader that goes away" "0 141" "" bash -c '"$program" run -m "$model" --threads 1 -p corn -n 100 | head -c 1; exit ${PIPESTATUS[0]}'
try "stderr closed" 0 "" bash -c '"$program" run -m "$model" --threads 1 -p corn -n 4 2>&-'

# Limits.
for kib in 60000 200000 800000 2000000; do
  try "$kib KiB of address space" "0 1 126 127" "" bash -c "ulimit -v $kib; exec \"\$program\" run -m \"\$model\" --threads 1 -p corn -n 4"
done
try "8 open files" "0 1 127" "" bash -c 'ulimit -n 8; exec "$program" run -m "$model" --threads 1 -p corn -n 4'
try "files of at most 1 KiB" 1 "File too large" bash -c "ulimit -f 1; exec \"\$program\" eval -m \"\$model\" --threads 1 --text $work/text.txt --lengths 400 --windows 8 --tasks kl --policies dense -o $work/limited"

# The machine's memory of what attention costs.
mkdir -p "$XDG_CACHE_HOME/winnow"; echo '{"broken' >"$XDG_CACHE_HOME/winnow/attention_costs.json"
try "a damaged file of attention's costs" 0 "" "$program" run "${on_tiny[@]}" -p corn -n 2 --policy "$work/policy.json"
rm -rf "$XDG_CACHE_HOME"; echo x >"$XDG_CACHE_HOME"
try "no place for attention's costs" 0 "" "$program" run "${on_tiny[@]}" -p corn -n 2 --policy "$work/policy.json"

(( failed == 0 )) && echo "fault_test: all of it as it should be"
exit "$failed"
