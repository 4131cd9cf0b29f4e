#!/usr/bin/env bash
# Installs the Debian packages that Hels needs, only those that are missing.
#   packages.sh build         what `make demo` needs
#   packages.sh build test    and what `make test` needs
set -euo pipefail

build_packages=(cmake ninja-build g++ libdnnl-dev libgloo-dev nlohmann-json3-dev)
test_packages=(libgtest-dev libgmock-dev etcd-server iproute2 clang-tidy clang-format libomp-dev openssl systemd)

fail() {
  echo "error: $*" >&2
  exit 1
}

check_node() {
  command -v node >/dev/null || fail "Node.js is missing; install version 20.19 or newer (https://nodejs.org)"
  node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)' ||
    fail "Node.js $(node --version) is too old; install version 20.19 or newer"
}

check_compiler() {
  command -v g++ >/dev/null || return 0 # among the packages to install
  echo 'int main() { auto f = []<class T>(T x) { return x; }; return f(0); }' |
    g++ -std=c++20 -x c++ -fsyntax-only - 2>/dev/null ||
    fail "$(g++ --version | head -1) does not know C++20; install g++ 11 or newer"
}

missing_of() {
  for package in "$@"; do
    dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q '^install ok installed' || echo "$package"
  done
}

check_node
check_compiler

wanted=()
for group in "$@"; do
  case "$group" in
    build) wanted+=("${build_packages[@]}") ;;
    test) wanted+=("${test_packages[@]}") ;;
    *) fail "unknown package group '$group'; the groups are build and test" ;;
  esac
done

command -v dpkg-query >/dev/null ||
  fail "this is not a Debian or Ubuntu system; install the equivalents of: ${wanted[*]}, then: touch .stamps/packages .stamps/test-packages"

mapfile -t missing < <(missing_of "${wanted[@]}")
[ "${#missing[@]}" -eq 0 ] && exit 0

echo "==> installing Debian packages: ${missing[*]}"
run=()
if [ "$(id -u)" -ne 0 ]; then
  if ! sudo -n true 2>/dev/null; then
    fail "these packages are missing and root is needed to install them. Run:
    sudo apt-get install -y --no-install-recommends ${missing[*]}"
  fi
  run=(sudo -n)
fi
export DEBIAN_FRONTEND=noninteractive
install() { "${run[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; }
# A package list that is already there saves a minute; a stale one is refreshed.
install 2>/dev/null || { "${run[@]}" apt-get update -qq && install; }
