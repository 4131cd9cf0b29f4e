// The chain kernels for bf16 inputs with the processor's bf16 dot product: one instruction takes a pair of inputs for
// the 16 columns of a panel. Measured to round as two multiply-adds, the pair's second first, subnormals as zero; the
// self-check at load compares it with the portable kernels on every machine.
#include "kernels/cpu/chain_tile.h"

#ifdef HELS_X86

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/chain_sums_avx512.h"
#include "kernels/cpu/narrow_blocks.h"
#include "kernels/cpu/vector_avx2.h"
#include "kernels/cpu/widen_integers_avx512.h"

namespace hels {
namespace {

using avx512::loadSums;
using avx512::storeSums;

constexpr int64_t kFourBytes = int64_t{4} * sizeof(uint16_t);     // of inputs of a row
constexpr int64_t kFourWeightBytes = kFourBytes * kPanelColumns;  // of a panel
constexpr int64_t kBlockWeightBytes = kBlockInputs / 4 * kFourWeightBytes;
constexpr int kChainsAtOnce = 14;  // even and odd ones together, beside their operands in 32 registers
// Where memory is asked for weights: into the second-level cache, as the hardware stops at the end of a page; and,
// where a loop takes every other line or little else, into the first.
constexpr int64_t kAheadBytes = 8192;
constexpr int64_t kNearBytes = 1024;

/// Where a block's weights come from.
enum class Weights : uint8_t { kFromMemory, kInCache };

/// Where a block's operands lie.
struct Block {
  const std::byte* x;
  int64_t xStrideBytes;
  const std::byte* weights;
  int64_t panelStrideBytes;
  const float* scales;  // as of TileArguments
  int64_t scaleStride;
  int64_t inputs;
  int64_t aheadBytes = 0;  // from weights to those to ask memory for
};

/// One pair of each four inputs of a block into its chains, the first ones (even inputs) or the second.
template <Weights source, int rows, int panels>
HELS_AVX512_BF16 inline void addPair(__m512 (&sums)[rows][panels], const std::byte* x, const std::byte* weights,
                                     const Block& block) {
  __m512bh w[panels];
#pragma GCC unroll 16
  for (int panel = 0; panel < panels; ++panel) {
    const std::byte* pairs = weights + panel * block.panelStrideBytes;
    if constexpr (source == Weights::kFromMemory) _mm_prefetch(pairs + block.aheadBytes, _MM_HINT_T1);
    if constexpr (source == Weights::kFromMemory && rows * panels > kChainsAtOnce) {
      _mm_prefetch(pairs + kNearBytes, _MM_HINT_T0);
    }
    w[panel] = (__m512bh)_mm512_loadu_si512(pairs);
  }
#pragma GCC unroll 16
  for (int row = 0; row < rows; ++row) {
    const auto pair = (__m512bh)_mm512_set1_epi32(*reinterpret_cast<const int32_t*>(x + row * block.xStrideBytes));
#pragma GCC unroll 16
    for (int panel = 0; panel < panels; ++panel) {
      sums[row][panel] = _mm512_dpbf16_ps(sums[row][panel], pair, w[panel]);
    }
  }
}

template <int rows, int panels>
HELS_AVX512_BF16 inline void clear(__m512 (&sums)[rows][panels]) {
#pragma GCC unroll 16
  for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 16
    for (int panel = 0; panel < panels; ++panel) sums[row][panel] = _mm512_setzero_ps();
  }
}

template <int rows, int panels>
HELS_AVX512_BF16 inline void addSums(__m512 (&sums)[rows][panels], const __m512 (&even)[rows][panels],
                                     const __m512 (&odd)[rows][panels], const Block& block) {
#pragma GCC unroll 16
  for (int panel = 0; panel < panels; ++panel) {
    const bool scaled = block.scales != nullptr;
    const __m512 scale = scaled ? _mm512_loadu_ps(block.scales + panel * block.scaleStride) : _mm512_setzero_ps();
#pragma GCC unroll 16
    for (int row = 0; row < rows; ++row) {
      const __m512 sum = avx512::sumOfBlock(even[row][panel], odd[row][panel], block.inputs);
      sums[row][panel] =
          scaled ? avx512::withScaled(sums[row][panel], sum, scale) : _mm512_add_ps(sums[row][panel], sum);
    }
  }
}

/// Adds a block to the chains: its even and odd chains side by side, or, where that takes too many registers, one after
/// the other.
template <Weights source, int rows, int panels>
HELS_AVX512_BF16 inline void addBlock(__m512 (&sums)[rows][panels], const Block& block) {
  __m512 even[rows][panels], odd[rows][panels];
  const std::byte* x = block.x;
  const std::byte* weights = block.weights;
  const std::byte* end = x + divCeil(block.inputs, 4) * kFourBytes;
  clear(even);
  if constexpr (rows * panels <= kChainsAtOnce) {
    clear(odd);
    for (; x != end; x += kFourBytes, weights += kFourWeightBytes) {
      addPair<source>(even, x, weights, block);
      addPair<source>(odd, x + kFourBytes / 2, weights + kFourWeightBytes / 2, block);
    }
  } else {
    for (; x != end; x += kFourBytes, weights += kFourWeightBytes) addPair<source>(even, x, weights, block);
    clear(odd);
    x = block.x;
    weights = block.weights;
    for (; x != end; x += kFourBytes, weights += kFourWeightBytes) {
      addPair<source>(odd, x + kFourBytes / 2, weights + kFourWeightBytes / 2, block);
    }
  }
  addSums(sums, even, odd, block);
}

/// A function of its own, so that no arithmetic moves out of the caller's SubnormalFlush.
template <Weights source, int rows, int panels>
HELS_AVX512_BF16 __attribute__((noinline)) void addBlocks(const TileArguments& a) {
  __m512 sums[rows][panels];
  loadSums(a, sums);
  Block block{a.x, a.xStrideBytes, a.panel, a.panelStrideBytes, a.scales, a.scaleStride, kBlockInputs};
  for (int64_t left = a.depth; left > 0; left -= kBlockInputs, block.weights += kBlockWeightBytes) {
    block.inputs = std::min(kBlockInputs, left);
    block.aheadBytes = readAhead(a, panels, block.weights, kAheadBytes) - block.weights;
    for (int term = 0; term < a.terms; ++term, block.x += a.xBlockBytes) addBlock<source>(sums, block);
    if (block.scales != nullptr) block.scales += kPanelColumns;
  }
  storeSums(a, sums);
}

template <Weights source, int rows, int panels>
HELS_AVX512_BF16 void tile(const TileArguments& a) {
  const avx2::SubnormalFlush flush;
  addBlocks<source, rows, panels>(a);
}

/// 32 inputs as one or two terms in the order kStraddled.
HELS_AVX512 void narrowBlock(const float* source, uint16_t* upperTerms, uint16_t* lowerTerms) {
  const __m512 values[] = {_mm512_loadu_ps(source), _mm512_loadu_ps(source + 16)};
  const __m512i straddled = _mm512_broadcast_i32x4(_mm_setr_epi8(4, 5, 0, 1, 6, 7, 2, 3, 12, 13, 8, 9, 14, 15, 10, 11));
  const __m512i upper = avx512::roundedToBf16(values[0], values[1]);
  _mm512_storeu_si512(upperTerms, _mm512_shuffle_epi8(upper, straddled));
  if (lowerTerms == nullptr) return;
  const __m512i lower = avx512::roundedToBf16(avx512::restOf(values[0], upper, 0), avx512::restOf(values[1], upper, 1));
  _mm512_storeu_si512(lowerTerms, _mm512_shuffle_epi8(lower, straddled));
}

void narrowBlocks(const float* source, int64_t count, int terms, uint16_t* target, int64_t stride) {
  narrowInBlocks(source, count, terms, target, stride, narrowBlock);
}

constexpr int kQuantizedRowsMax = 8;
constexpr int kUnitRowsMax = 4;

/// For so few rows that storing widened integers takes longer than multiplying them: unit by unit, from registers.
template <Quantization quantization, int terms, int rows, int panels>
HELS_AVX512_BF16 __attribute__((noinline)) void addUnits(const TileArguments& a) {
  constexpr int kPairs = avx512::kUnitPairs<quantization>;
  __m512 sums[rows][panels];
  loadSums(a, sums);
  const std::byte* group = a.panel;
  const std::byte* x = a.x;
  for (int64_t left = a.depth; left > 0; left -= kBlockInputs, x += terms * a.xBlockBytes) {
    const int64_t inputs = std::min(kBlockInputs, left);
    const int64_t aheadBytes = readAhead(a, panels, group, kAheadBytes) - group;
    __m512 chains[2][terms][rows][panels];  // the even ones, the odd ones
#pragma GCC unroll 2
    for (int term = 0; term < terms; ++term) {
      clear(chains[0][term]);
      clear(chains[1][term]);
    }
    const std::byte* unit = group + kPackedScaleBytes;
    for (int64_t k = 0; k < inputs; k += 2 * kPairs, unit += kUnitBytes) {
#pragma GCC unroll 4
      for (int panel = 0; panel < panels; ++panel) {
        const std::byte* own = unit + panel * a.panelStrideBytes;
        _mm_prefetch(own + aheadBytes, _MM_HINT_T1);
        _mm_prefetch(own + kNearBytes, _MM_HINT_T0);
        __m512i pairs[kPairs];
        avx512::widenUnit<quantization, PairOrder::kStraddled>(own, pairs);
#pragma GCC unroll 4
        for (int i = 0; i < kPairs; ++i) {
#pragma GCC unroll 2
          for (int term = 0; term < terms; ++term) {
#pragma GCC unroll 4
            for (int row = 0; row < rows; ++row) {
              const std::byte* pair = x + term * a.xBlockBytes + row * a.xStrideBytes + (k + 2 * i) * kFourBytes / 4;
              const auto inputPair = (__m512bh)_mm512_set1_epi32(*reinterpret_cast<const int32_t*>(pair));
              __m512& chain = chains[i % 2][term][row][panel];
              chain = _mm512_dpbf16_ps(chain, inputPair, (__m512bh)pairs[i]);
            }
          }
        }
      }
    }
#pragma GCC unroll 4
    for (int panel = 0; panel < panels; ++panel) {
      const __m512 scale = avx512::scalesOf(group + panel * a.panelStrideBytes);
#pragma GCC unroll 2
      for (int term = 0; term < terms; ++term) {
#pragma GCC unroll 4
        for (int row = 0; row < rows; ++row) {
          const __m512 sum = avx512::sumOfBlock(chains[0][term][row][panel], chains[1][term][row][panel], inputs);
          sums[row][panel] = avx512::withScaled(sums[row][panel], sum, scale);
        }
      }
    }
    group += groupBytes(quantization, inputs);
  }
  storeSums(a, sums);
}

/// Inputs in two terms have twice the chains: of as many panels at once as there are registers for.
template <Quantization quantization, int rows, int panels>
HELS_AVX512_BF16 void addUnitsInTwoTerms(const TileArguments& a) {
  constexpr int kAtOnce = std::min(panels, rows == 1 ? 4 : rows == 2 ? 2 : 1);
  TileArguments part = a;
  for (int panel = 0; panel < panels; panel += kAtOnce) {
    addUnits<quantization, 2, rows, kAtOnce>(part);
    part.panel += kAtOnce * a.panelStrideBytes;
    part.c += kAtOnce * kPanelColumns;
  }
}

/// For few rows, which would wait for weights to be widened in advance: group by group.
template <Quantization quantization, int rows, int panels>
HELS_AVX512_BF16 __attribute__((noinline)) void addGroups(const TileArguments& a) {
  static_assert(kGroupInputs == kBlockInputs);
  alignas(64) uint16_t weights[panels][kBlockInputs * kPanelColumns];
  alignas(64) float scales[panels][kPanelColumns];
  __m512 sums[rows][panels];
  loadSums(a, sums);
  const std::byte* groups = a.panel;
  Block block{a.x,           a.xStrideBytes, reinterpret_cast<const std::byte*>(weights), kBlockWeightBytes, scales[0],
              kPanelColumns, kBlockInputs};
  for (int64_t left = a.depth; left > 0; left -= kBlockInputs) {
    block.inputs = std::min(kBlockInputs, left);
    const std::byte* firstAhead = readAhead(a, panels, groups, avx512::kPrefetchBytes);
#pragma GCC unroll 4
    for (int panel = 0; panel < panels; ++panel) {
      const std::byte* group = groups + panel * a.panelStrideBytes;
      const std::byte* ahead = firstAhead + panel * a.panelStrideBytes;
      _mm512_store_ps(scales[panel], avx512::scalesOf(group));
      avx512::widenGroup<quantization, PairOrder::kStraddled>(group + kPackedScaleBytes, block.inputs, ahead,
                                                              weights[panel]);
    }
    groups += groupBytes(quantization, block.inputs);
    for (int term = 0; term < a.terms; ++term, block.x += a.xBlockBytes) addBlock<Weights::kInCache>(sums, block);
  }
  storeSums(a, sums);
}

template <Quantization quantization, int rows, int panels>
HELS_AVX512_BF16 void quantizedTile(const TileArguments& a) {
  const avx2::SubnormalFlush flush;
  if constexpr (rows > kUnitRowsMax) {
    addGroups<quantization, rows, panels>(a);
  } else if (a.terms == 1) {
    addUnits<quantization, 1, rows, panels>(a);
  } else {
    addUnitsInTwoTerms<quantization, rows, panels>(a);
  }
}

template <Quantization quantization, int rows = 1>
void fillQuantized(ChainTileSet& set, TileKind kind) {
  constexpr int panels = rows <= 2 ? 4 : 2;
  set.panels[kind][rows - 1] = panels;
  set.wide[kind][rows - 1] = quantizedTile<quantization, rows, panels>;
  set.single[kind][rows - 1] = quantizedTile<quantization, rows, 1>;
  if constexpr (rows < kQuantizedRowsMax) fillQuantized<quantization, rows + 1>(set, kind);
}

constexpr int kRowsMax = 8;
constexpr int kTileRows = kChainsAtOnce / 2;  // of two panels
constexpr int kCachedTileRows = 5;            // whose sums fit beside their chains in 32 registers

template <Weights source, int rows = 1>
void fillPairs(ChainTileSet& set, TileKind kind) {
  constexpr int panels = rows <= 3 ? std::min(8, kChainsAtOnce / rows) : 2;
  set.panels[kind][rows - 1] = panels;
  set.wide[kind][rows - 1] = tile<source, rows, panels>;
  set.single[kind][rows - 1] = tile<source, rows, 1>;
  if constexpr (rows < kRowsMax) fillPairs<source, rows + 1>(set, kind);
}

ChainTileSet makeSet() {
  ChainTileSet set = avx512TileSet();
  set.isa = Isa::kAvx512Bf16;
  set.pairOrder = PairOrder::kStraddled;
  for (const TileKind kind : {kTilePairs, kTileScaled}) {
    set.rowsMax[kind] = kRowsMax;
    set.tileRows[kind] = kTileRows;
    set.cachedTileRows[kind] = kCachedTileRows;
  }
  set.depthBlock = 2048;  // from the second-level cache; sums are loaded and stored less often
  set.narrowBlocks = narrowBlocks;
  fillPairs<Weights::kFromMemory>(set, kTilePairs);
  fillPairs<Weights::kInCache>(set, kTileScaled);
  fillQuantized<Quantization::kInt8>(set, kTileInt8);
  fillQuantized<Quantization::kInt4>(set, kTileInt4);
  set.dequantize[0] = avx512::dequantize<Quantization::kInt8, PairOrder::kStraddled>;
  set.dequantize[1] = avx512::dequantize<Quantization::kInt4, PairOrder::kStraddled>;
  return set;
}

}  // namespace

const ChainTileSet& avx512Bf16TileSet() {
  static const ChainTileSet set = makeSet();
  return set;
}

}  // namespace hels

#endif
