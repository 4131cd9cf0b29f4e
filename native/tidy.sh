#!/usr/bin/env bash
# clang-format and clang-tidy over the native code, warnings as errors. tidy.sh [--format] [FILE...]; without files, all;
# --format: clang-format only.
set -euo pipefail
cd "$(dirname "$0")"

format_only=false
if [ "${1:-}" = --format ]; then
  format_only=true
  shift
fi
if [ "$#" -gt 0 ]; then
  files=("$@")
else
  mapfile -t files < <(find base shard model kernels kv comm engine test binding check -name '*.cpp' -o -name '*.cu' -o -name '*.h' | sort)
fi
clang-format --dry-run --Werror "${files[@]}"
[ "$format_only" = true ] && exit 0

build=build-sanitize
[ -f "$build/compile_commands.json" ] || cmake --preset sanitize >/dev/null

# Headers are checked through the sources that include them. Not checked: the binding, whose sources are known to
# cmake-js builds only, the tests and the checker, where an int that widens harms nobody, and the emulation, whose names are CUDA's.
sources=()
for file in "${files[@]}"; do
  [[ "$file" == *.cpp && "$file" != binding/* && "$file" != test/* && "$file" != check/* && "$file" != */emulation/* ]] && sources+=("$file")
done
[ "${#sources[@]}" -eq 0 ] && exit 0
# GCC's sanitizer and OpenMP flags mean nothing to clang's parser.
printf '%s\0' "${sources[@]}" | xargs -0 -n 2 -P "$(nproc)" clang-tidy -p "$build" --quiet --extra-arg=-Wno-unknown-warning-option
