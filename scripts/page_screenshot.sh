#!/usr/bin/env bash
# The server's page in a real headless Chromium: starts winnow serve, lets the page ask its example under a policy,
# checks what came of it, and takes pictures in light and dark.
#   scripts/page_screenshot.sh MODEL [FOLDER]      default folder: build/page
# Needs build/release/bin/winnow and chromium.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { echo "page_screenshot: $*" >&2; exit 1; }
[[ $# -ge 1 ]] || die "usage: scripts/page_screenshot.sh MODEL [FOLDER]"
model="$1" folder="${2:-build/page}" policy="${WINNOW_PAGE_POLICY:-keep08}"
command -v chromium >/dev/null || die "chromium is not here (apt-get install chromium)"
mkdir -p "$folder"
scratch="$(mktemp -d)"
server=
trap '[[ -z "$server" ]] || kill "$server" 2>/dev/null || true; rm -rf "$scratch"' EXIT

build/release/bin/winnow serve -m "$model" --port 0 2>"$scratch/log" &
server=$!
for _ in $(seq 600); do
  url="$(sed -n 's/.* at \(http[^ ,]*\).*/\1/p' "$scratch/log")"
  [[ -z "$url" ]] || break
  kill -0 "$server" 2>/dev/null || die "the server ended: $(cat "$scratch/log")"
  sleep 0.1
done
[[ -n "${url:-}" ]] || die "the server did not start"

browse() {  # ARGUMENTS... URL
  # Virtual time stands still while a request is under way: the page is looked at when the answers are there.
  timeout 120 chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$scratch/profile" \
    --virtual-time-budget=20000 --run-all-compositor-stages-before-draw "$@" 2>"$scratch/chromium" || die "chromium failed: $(tail -3 "$scratch/chromium")"
}
browse --dump-dom "$url/#example=$policy" >"$folder/page.html"
grep -q 'id="result" data-state="done"' "$folder/page.html" || die "the page did not get its answers: see $folder/page.html"
grep -q 'class="gone"' "$folder/page.html" || die "no token faded"
grep -q '× faster' "$folder/page.html" || die "dense and pruned were not compared"
for theme in light dark; do
  flags=()
  [[ "$theme" == light ]] || flags=(--blink-settings=preferredColorScheme=0 --force-dark-mode)
  browse "${flags[@]}" --window-size=1400,1150 --screenshot="$folder/view-$theme.png" "$url/#example=$policy"
done
browse --window-size=1000,700 --screenshot="$folder/chat.png" "$url/#chat=What is winnowing?"
browse --window-size=420,1400 --screenshot="$folder/narrow.png" "$url/#example=$policy"
echo "page_screenshot: $folder/view-light.png view-dark.png chat.png narrow.png" >&2
