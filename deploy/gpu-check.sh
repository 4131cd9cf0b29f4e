#!/usr/bin/env bash
# Checks and measures Hels on this machine's GPU: builds hels-native-check (or takes a built one), runs it part by part,
# each in a process of its own under a time limit, and prints a table of what came out.
#
#   deploy/gpu-check.sh [FOLDER [PART...]]      FOLDER (default gpu-check): where one JSON per part goes, device.csv, and
#                                               failures.log with the output of the parts that did not pass
#   parts: kernels goldens nccl bench steps moves partitions peer sanitizer; default: all but the sanitizer
#
# HELS_CHECK_BINARY   a built hels-native-check; else it is built here with nvcc (CMake where there is one)
# HELS_CHECK_ARCH     the architecture to build for (default: this machine's GPU, else 90)
# HELS_CHECK_BUILD    the folder to build in (default /tmp/hels-check-build)
# HELS_CHECK_MODELS   folders of goldens, separated by spaces (default: test/fixtures/goldens and ../shared/goldens)
# HELS_CHECK_DEVICE   default cuda:0
# HELS_CHECK_SECONDS  limit of each part (default: 40 to 100, by part); sections get what fits into it
# HELS_CHECK_TOTAL    limit of all parts together, without the build (default 280)
# HELS_CHECK_QUICK    1: tiny sizes (the emulated build)
# HELS_CHECK_SHAPES   default 8b,13b
# HELS_CHECK_PYTHON   default python3
# HELS_CUDA_LIBRARY_PATH  folders, separated by ':', to look for cuBLASLt and NCCL in first; may be a site-packages folder
# Exit code: 0 when every part that ran passed.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-gpu-check}
shift || true
parts=("$@")
[[ ${#parts[@]} -eq 0 ]] && parts=(kernels goldens nccl bench steps moves partitions peer)
device=${HELS_CHECK_DEVICE:-cuda:0}
total=${HELS_CHECK_TOTAL:-280}
shapes=${HELS_CHECK_SHAPES:-8b,13b}
python=${HELS_CHECK_PYTHON:-python3}
build_folder=${HELS_CHECK_BUILD:-/tmp/hels-check-build}
read -r -a models <<<"${HELS_CHECK_MODELS:-$root/test/fixtures/goldens $root/../shared/goldens}"
quick=()
[[ ${HELS_CHECK_QUICK:-0} == 1 ]] && quick=(--quick)
for part in "${parts[@]}"; do
  case $part in
    kernels | goldens | nccl | bench | steps | moves | partitions | peer | sanitizer) ;;
    *)
      echo "gpu-check: unknown part '$part'; known are kernels goldens nccl bench steps moves partitions peer sanitizer" >&2
      exit 2
      ;;
  esac
done
mkdir -p "$out"
rm -f "$out/failures.log"
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.max.sm,temperature.gpu --format=csv \
  >"$out/device.csv" 2>/dev/null || true

architecture() {
  local found
  found=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d '. ')
  [[ $found =~ ^[0-9]+$ ]] && echo "$found" || echo 90
}

# Without CMake: every source by nvcc, as many at a time as there are processors. The list is that of
# native/check/CMakeLists.txt; what native/cmake/wgmma.cmake builds apart gets its own target here too.
build_by_nvcc() {
  local arch=$1 native=$root/native
  export HELS_NVCC_LINE="nvcc -std=c++20 -O3 --fmad=false -arch=sm_$arch -DHELS_HAS_CUDA -DHELS_CUDA_ARCHITECTURES=\"$arch\" -I$native -I$native/test -I$native/check/standalone -Xcompiler=-ffp-contract=off"
  find "$native"/{base,shard,model,kv,kernels,comm,engine,test/reference,check} \( -name '*.cpp' -o -name '*.cu' \) |
    grep -Ev '/emulation/|onednn_gemm|engine/group_connector|comm/(gloo|shared|socket|collective)|model/(bounded_json|safetensors_header|weight_source)' >"$build_folder/sources"
  echo "$native/check/standalone/onednn_gemm.cpp" >>"$build_folder/sources"
  xargs -P "$(nproc)" -I{} bash -c '
    line=$HELS_NVCC_LINE
    [[ $1 == */gemm_wgmma.cu ]] && line=${line/-arch=sm_90 /-gencode=arch=compute_90a,code=sm_90a -DHELS_WGMMA }
    exec $line -c "$1" -o "$2/$(echo "$1" | tr / _).o"' _ {} "$build_folder" <"$build_folder/sources" &&
    nvcc -std=c++20 -arch="sm_$arch" "$build_folder"/*.o -o "$build_folder/hels-native-check" -lpthread -ldl
}

build() {
  local arch=${HELS_CHECK_ARCH:-$(architecture)}
  mkdir -p "$build_folder"
  if command -v cmake >/dev/null; then
    local generator=()
    command -v ninja >/dev/null && generator=(-G Ninja)
    cmake -S "$root/native/check" -B "$build_folder" "${generator[@]}" -DCMAKE_CUDA_ARCHITECTURES="$arch-real" &&
      cmake --build "$build_folder" --parallel "$(nproc)"
  else
    build_by_nvcc "$arch"
  fi
}

failed=0
binary=${HELS_CHECK_BINARY:-}
if [[ -n $binary ]] && ! "$binary" --help >/dev/null 2>&1; then
  echo "gpu-check: $binary does not run here; building" >&2
  binary=
fi
if [[ -z $binary && ${parts[*]} != peer ]]; then
  started=$SECONDS
  if ! build >"$out/build.log" 2>&1; then
    tail -30 "$out/build.log" >&2
    echo "gpu-check: the build failed (the whole log: $out/build.log)" >&2
    parts=(peer)
    failed=1
  fi
  [[ ${parts[*]} == peer ]] || rm -f "$out/build.log"
  echo "built in $((SECONDS - started)) s"
  binary=$build_folder/hels-native-check
fi

# cuBLASLt and NCCL of a Python environment, where the system has none.
if [[ -z ${HELS_CUDA_LIBRARY_PATH:-} ]]; then
  packages=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' 2>/dev/null)
  [[ -d $packages/nvidia ]] && export HELS_CUDA_LIBRARY_PATH=$packages
fi

# run_part NAME COMMAND...: what it printed is kept only when it did not pass. --kill-after: a hung driver call.
run_part() {
  local name=$1 started=$SECONDS code=0
  shift
  local log=$out/$name.log
  timeout --kill-after=5 "$limit" "$@" >"$log" 2>&1 || code=$?
  [[ $code -eq 0 ]] || failed=1
  local verdict=passed
  [[ $code -ne 0 ]] && verdict="FAILED (exit code $code)"
  [[ $code -eq 124 || $code -eq 137 ]] && verdict="stopped after $limit s"
  echo "$name: $verdict, $((SECONDS - started)) s"
  if [[ $code -ne 0 ]]; then
    tail -5 "$log" | cut -c1-400
    { echo "== $name: $verdict" && cat "$log"; } >>"$out/failures.log"
  fi
  rm -f "$log"
}

existing=()
for model in "${models[@]}"; do [[ -d $model ]] && existing+=("$model"); done
given=()
[[ ${#existing[@]} -gt 0 ]] && given=(--models "${existing[@]}")
declare -A usual=([kernels]=50 [goldens]=80 [nccl]=40 [bench]=60 [steps]=110 [moves]=40 [partitions]=50 [peer]=70 [sanitizer]=60)
parts_started=$SECONDS
for part in "${parts[@]}"; do
  remaining=$((total - SECONDS + parts_started))
  limit=${HELS_CHECK_SECONDS:-${usual[$part]}}
  ((limit <= remaining)) || limit=$remaining
  if ((limit < 10)); then
    echo "$part: skipped, only $remaining of $total s are left"
    failed=1
    continue
  fi
  # For one section: a part's limit leaves some for its start and for the sections beside it.
  section_seconds=$((limit * 2 / 5))
  [[ $part == steps ]] && section_seconds=$((limit / 5))
  common=("$binary" --device "$device" --json "$out/$part.json" --seconds "$section_seconds" --shapes "$shapes" "${quick[@]}")
  case $part in
    kernels | nccl | bench | steps | moves | partitions) run_part "$part" "${common[@]}" "--$part" ;;
    goldens) run_part goldens "${common[@]}" --goldens "${given[@]}" ;;
    peer) run_part peer "$python" "$root/native/check/torch_peer.py" --shapes "$shapes" --seconds $((limit * 2 / 3)) --json "$out/peer.json" ;;
    sanitizer)
      if command -v compute-sanitizer >/dev/null; then
        # Bounds and shared memory races of every kernel, at the sizes of the emulation.
        run_part memcheck compute-sanitizer --tool memcheck --error-exitcode 9 "$binary" --device "$device" \
          --json "$out/memcheck.json" --kernels --quick --seconds "$section_seconds"
        run_part racecheck compute-sanitizer --tool racecheck --error-exitcode 9 "$binary" --device "$device" \
          --json "$out/racecheck.json" --kernels --quick --seconds "$section_seconds"
      else
        echo "sanitizer: skipped, compute-sanitizer is not here"
      fi
      ;;
  esac
done

if command -v "$python" >/dev/null; then "$python" "$root/native/check/summary.py" "$out"; fi
exit $failed
