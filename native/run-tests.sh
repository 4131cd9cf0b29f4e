#!/usr/bin/env bash
# The native tests under the address and undefined-behaviour sanitizers, then the formatting.
set -euo pipefail
cd "$(dirname "$0")"

jobs=$(nproc)
configure=(cmake --preset sanitize)
command -v ninja >/dev/null && configure+=(-G Ninja)
"${configure[@]}" >/dev/null
cmake --build --preset sanitize --parallel "$jobs"
ctest --preset sanitize --parallel "$jobs" --output-on-failure
./tidy.sh --format
