#!/usr/bin/env bash
# Installs what winnow is built from, on Debian 12 and later: only packages that are missing, quietly. Running it again
# does nothing.
set -euo pipefail

readonly PACKAGES=(
  g++ cmake ninja-build pkg-config
  libdnnl-dev libhwy-dev nlohmann-json3-dev libcli11-dev libfmt-dev libspdlog-dev libpcre2-dev libxxhash-dev libpng-dev libssl-dev libcpp-httplib-dev
  libopenmpi-dev openmpi-bin        # ranks over MPI (docs/multi_gpu.md); the build goes on without
  libgtest-dev libbenchmark-dev     # tests and benchmarks
  python3 python3-venv ca-certificates  # scripts/get_model.sh, scripts/check_includes.py
  python3-dev pybind11-dev python3-numpy python3-pytest  # the Python package and its tests
)

die() { echo "install_packages: $*" >&2; exit 1; }

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "install_packages: no apt-get here; winnow needs what Debian calls: ${PACKAGES[*]}" >&2
  exit 0  # they may be there: CMake tells
fi

missing=()
for package in "${PACKAGES[@]}"; do
  # `dpkg -s` would also succeed for a package that was removed but not purged.
  state="$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)"
  [[ "$state" == installed ]] || missing+=("$package")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

as_root=()
if [[ "$(id -u)" -ne 0 ]]; then
  command -v sudo >/dev/null || die "these packages are missing: ${missing[*]}
install_packages: run this as root, or have them installed: apt-get install ${missing[*]}"
  as_root=(sudo)
fi

log="$(mktemp)"
trap 'rm -f "$log"' EXIT
quietly() { "$@" >"$log" 2>&1 || { cat "$log" >&2; die "failed: $*"; }; }

echo "install_packages: installing ${missing[*]}" >&2
quietly "${as_root[@]}" apt-get update -q
quietly "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
