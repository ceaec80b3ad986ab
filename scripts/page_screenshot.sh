#!/usr/bin/env bash
# The server's page in a real headless Chromium: starts winnow serve, lets the page ask its example under a policy,
# checks what came of it, and takes pictures in light and dark.
#   scripts/page_screenshot.sh MODEL [FOLDER]      default folder: build/page
#   scripts/page_screenshot.sh --load MODEL        only: does the page load, and offer the server's policies?
# Needs chromium (exit 77 without) and build/release/bin/winnow, or the program that WINNOW names. WINNOW_PAGE_POLICY: the
# policy of the pictures; default: the page's first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { echo "page_screenshot: $*" >&2; exit 1; }
load=; [[ "${1:-}" != --load ]] || { load=1; shift; }
[[ -n "${1:-}" ]] || die "usage: scripts/page_screenshot.sh MODEL [FOLDER], or --load MODEL"
model="$1" folder="${2:-build/page}"
command -v chromium >/dev/null || { echo "page_screenshot: chromium is not here (apt-get install chromium)" >&2; exit 77; }
scratch="$(mktemp -d)"
server=
trap '[[ -z "$server" ]] || kill "$server" 2>/dev/null || true; rm -rf "$scratch"' EXIT

: >"$scratch/log"
"${WINNOW:-build/release/bin/winnow}" serve -m "$model" --port 0 2>"$scratch/log" &
server=$!
for _ in $(seq 600); do
  url="$(sed -n 's/.* at \(http[^ ,]*\).*/\1/p' "$scratch/log")"
  [[ -z "$url" ]] || break
  kill -0 "$server" 2>/dev/null || die "the server ended: $(cat "$scratch/log")"
  sleep 0.1
done
[[ -n "${url:-}" ]] || die "the server did not start"

[[ -z "$load" ]] || { python3 scripts/page_driver.py "$url"; exit; }
mkdir -p "$folder"
python3 scripts/page_driver.py "$url" "$folder" "${WINNOW_PAGE_POLICY:-}"
echo "page_screenshot: $folder/view-light.png view-dark.png narrow.png chat.png" >&2
