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

: >"$scratch/log"
build/release/bin/winnow serve -m "$model" --port 0 2>"$scratch/log" &
server=$!
for _ in $(seq 600); do
  url="$(sed -n 's/.* at \(http[^ ,]*\).*/\1/p' "$scratch/log")"
  [[ -z "$url" ]] || break
  kill -0 "$server" 2>/dev/null || die "the server ended: $(cat "$scratch/log")"
  sleep 0.1
done
[[ -n "${url:-}" ]] || die "the server did not start"

python3 scripts/page_driver.py "$url" "$folder" "$policy"
echo "page_screenshot: $folder/view-light.png view-dark.png narrow.png chat.png" >&2
