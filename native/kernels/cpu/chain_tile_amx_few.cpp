// The chain kernels for few rows with quantised weights, with the processor's tiles: weights are widened while the
// tiles multiply those before. A product of a block is a tile's, which begins at +0; what it adds to a chain is scaled.
#include "kernels/cpu/chain_tile.h"

#ifdef HELS_X86

#include <algorithm>
#include <cstdint>
#include <utility>

#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/vector_avx2.h"
#include "kernels/cpu/widen_integers_avx512.h"

namespace hels {
namespace {

using namespace amx;

constexpr int64_t kAheadBytes = 8192;  // into the second-level cache: the hardware stops at the end of a page
constexpr int64_t kNearBytes = 1024;   // and from there into the first

/// Up to `height` rows. In turn a block of all panels is widened, the one before multiplied, and the products of the
/// one before that are added: what one stores is in the cache when the next one loads it.
template <Quantization quantization, int terms, int height, int panels>
class WidenedBlocks {
 public:
  HELS_AVX512 explicit WidenedBlocks(const TileArguments& arguments) : a_(arguments) {}

  HELS_AVX512 void run() {
    __m512 sums[height][panels];
#pragma GCC unroll 16
    for (int row = 0; row < height; ++row) {
#pragma GCC unroll 4
      for (int panel = 0; panel < panels; ++panel) {
        sums[row][panel] = a_.accumulate && row < a_.rows ? _mm512_loadu_ps(target(row, panel)) : _mm512_setzero_ps();
      }
    }
    const int64_t blocks = divCeil(a_.depth, kBlockInputs);
    for (int64_t block = 0; block < blocks + 2; ++block) {
      if (block < blocks) widen(block);
      if (block >= 1 && block <= blocks) multiply(block - 1, std::make_integer_sequence<int, panels>());
      if (block >= 2) add(block - 2, sums);
    }
#pragma GCC unroll 16
    for (int row = 0; row < height; ++row) {
#pragma GCC unroll 4
      for (int panel = 0; panel < panels; ++panel) {
        if (row < a_.rows) _mm512_storeu_ps(target(row, panel), sums[row][panel]);
      }
    }
  }

 private:
  static constexpr int64_t kUnitStoreBytes = unitInputs(quantization) * kPanelColumns * int64_t{sizeof(uint16_t)};

  float* target(int row, int panel) const { return a_.c + row * a_.cStride + panel * kPanelColumns; }

  static_assert(kGroupInputs == kBlockInputs);
  const std::byte* group(int64_t block, int panel) const {
    return a_.panel + panel * a_.panelStrideBytes + block * groupBytes(quantization, kGroupInputs);
  }

  HELS_AVX512 void widen(int64_t block) {
    const int64_t inputs = std::min(kBlockInputs, a_.depth - block * kBlockInputs);
    const std::byte* first = group(block, 0);
    const int64_t aheadBytes = readAhead(a_, panels, first, kAheadBytes) - first;
#pragma GCC unroll 4
    for (int panel = 0; panel < panels; ++panel) {
      const std::byte* unit = group(block, panel) + kPackedScaleBytes;
      std::byte* target = weights_[block % 2][panel];
      std::byte* const end = target + kTileBytes;
      for (int64_t k = 0; k < inputs; k += unitInputs(quantization), unit += kUnitBytes, target += kUnitStoreBytes) {
        _mm_prefetch(unit + aheadBytes, _MM_HINT_T1);
        _mm_prefetch(unit + kNearBytes, _MM_HINT_T0);
        __m512i pairs[avx512::kUnitPairs<quantization>];
        avx512::widenUnit<quantization, PairOrder::kNeighbours>(unit, pairs);
#pragma GCC unroll 4
        for (int i = 0; i < avx512::kUnitPairs<quantization>; ++i) {
          _mm512_store_si512(target + i * kLineBytes, pairs[i]);
        }
      }
      for (; target < end; target += kLineBytes) _mm512_store_si512(target, _mm512_setzero_si512());
    }
  }

  template <int... panel>
  void multiply(int64_t block, std::integer_sequence<int, panel...>) {
    const std::byte* x = a_.x + block * terms * a_.xBlockBytes;
    loadTile<4>(x, kLineBytes);
    if constexpr (terms == 2) loadTile<5>(x + a_.xBlockBytes, kLineBytes);
    (multiplyPanel<panel>(block % 2), ...);
  }

  template <int panel>
  void multiplyPanel(int64_t turn) {
    loadTile<6 + panel % 2>(weights_[turn][panel], kLineBytes);
    multiplyTerm<panel, 0>(turn);
    if constexpr (terms == 2) multiplyTerm<panel, 1>(turn);
  }

  template <int panel, int term>
  void multiplyTerm(int64_t turn) {
    constexpr int product = (panel * terms + term) % 4;
    clearTile<product>();
    multiplyTiles<product, 4 + term, 6 + panel % 2>();
    storeTile<product>(products_[turn][panel][term], kLineBytes);
  }

  HELS_AVX512 void add(int64_t block, __m512 (&sums)[height][panels]) const {
#pragma GCC unroll 4
    for (int panel = 0; panel < panels; ++panel) {
      const __m512 scale = avx512::scalesOf(group(block, panel));
#pragma GCC unroll 2
      for (int term = 0; term < terms; ++term) {
#pragma GCC unroll 16
        for (int row = 0; row < height; ++row) {
          const __m512 product = _mm512_load_ps(products_[block % 2][panel][term][row]);
          sums[row][panel] = _mm512_fmadd_ps(scale, product, sums[row][panel]);
        }
      }
    }
  }

  const TileArguments& a_;
  alignas(64) std::byte weights_[2][panels][kTileBytes];
  alignas(64) float products_[2][panels][terms][height][kPanelColumns];
};

/// A function of its own, so that no arithmetic moves out of the caller's SubnormalFlush.
template <Quantization quantization, int terms, int height, int panels>
HELS_AVX512 __attribute__((noinline)) void addBlocks(const TileArguments& a) {
  setShapes(a.rows, a.rows);
  WidenedBlocks<quantization, terms, height, panels>(a).run();
}

template <Quantization quantization, int height, int panels>
HELS_AVX512 void tile(const TileArguments& a) {
  const avx2::SubnormalFlush flush;
  if (a.terms == 1) {
    addBlocks<quantization, 1, height, panels>(a);
  } else {
    addBlocks<quantization, 2, height, panels>(a);
  }
}

/// For the rows up to `height` that have no kernels yet.
template <Quantization quantization, int height>
void fill(ChainTileSet& set, TileKind kind) {
  constexpr int panels = height <= 8 ? 4 : 2;
  for (int row = height - 1; row >= 0 && set.wide[kind][row] == nullptr; --row) {
    set.panels[kind][row] = panels;
    set.wide[kind][row] = tile<quantization, height, panels>;
    set.single[kind][row] = tile<quantization, height, 1>;
  }
}

template <Quantization quantization>
void fillAll(ChainTileSet& set, TileKind kind) {
  set.rowsMax[kind] = kTileRows;
  fill<quantization, 2>(set, kind);
  fill<quantization, 4>(set, kind);
  fill<quantization, 8>(set, kind);
  fill<quantization, 16>(set, kind);
}

}  // namespace

namespace amx {

void addFewRowsKernels(ChainTileSet& set) {
  fillAll<Quantization::kInt8>(set, kTileInt8);
  fillAll<Quantization::kInt4>(set, kTileInt4);
}

}  // namespace amx
}  // namespace hels

#endif
