// The chain kernels for bf16 inputs with the processor's tiles (AMX): one instruction takes a block of 32 inputs of up
// to 16 rows for the 16 columns of a panel. Measured to round as chain_tile.h says; the self-check at load compares it
// with the portable kernels on every machine that has it.
#include "kernels/cpu/chain_tile.h"

#ifdef HELS_X86

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/chain_sums_avx512.h"
#include "kernels/cpu/narrow_blocks.h"
#include "kernels/cpu/vector_avx2.h"
#include "kernels/cpu/widen_integers_avx512.h"

namespace hels {
namespace {

using namespace amx;

constexpr int64_t kPrefetchBytes = 2 * kTileBytes;  // ahead of the hardware, which does not keep memory busy
constexpr int kPanelsMax = 4;

inline void prefetchTile(const std::byte* tile) {
#pragma GCC unroll 16
  for (int64_t line = 0; line < kTileRows; ++line) __builtin_prefetch(tile + line * kLineBytes);
}

/// Where a tile of many rows goes: its lines are far apart, which the hardware does not foresee.
inline void prefetchRows(const float* target, int64_t stride) {
#pragma GCC unroll 16
  for (int64_t row = 0; row < kTileRows; ++row) __builtin_prefetch(target + row * stride, 1);
}

void beginTiles() { currentShapes = {}; }
void endTiles() {
  currentShapes = {};
  asm volatile("tilerelease");
}

/// A short block of the panels, filled up with zeros.
struct ShortBlock {
  alignas(64) std::byte weights[kPanelsMax][kTileBytes];

  ShortBlock(const std::byte* panel, int64_t panelStrideBytes, int panels, int64_t inputs) {
    const auto bytes = static_cast<size_t>(roundUp(inputs, 4) * kPanelColumns) * sizeof(uint16_t);
    std::memset(weights, 0, sizeof(weights));
    for (int i = 0; i < panels; ++i) std::memcpy(weights[i], panel + i * panelStrideBytes, bytes);
  }
};

/// Rows of a call that go through the tiles together: up to 16 with up to 4 panels, or up to 32 with up to 2. The first
/// of a call bring the weights into the cache for those after them.
template <int panels, bool tall, bool first>
struct Part {
  template <typename Body>
  static void forSums(float* c, int64_t stride, const Body& body) {
    body(std::integral_constant<int, 0>(), c);
    if constexpr (panels > 1) body(std::integral_constant<int, 1>(), c + kPanelColumns);
    if constexpr (!tall && panels > 2) body(std::integral_constant<int, 2>(), c + 2 * kPanelColumns);
    if constexpr (!tall && panels > 3) body(std::integral_constant<int, 3>(), c + 3 * kPanelColumns);
    if constexpr (tall) body(std::integral_constant<int, 2>(), c + kTileRows * stride);
    if constexpr (tall && panels > 1) body(std::integral_constant<int, 3>(), c + kTileRows * stride + kPanelColumns);
  }

  static void multiplyBlock(const std::byte* x, int64_t xTileBytes, const std::byte* weights, int64_t panelStride,
                            const std::byte* ahead) {
    if constexpr (first) {
      for (int panel = 0; panel < panels; ++panel) prefetchTile(ahead + panel * panelStride);
    }
    loadTile<4>(x, kLineBytes);
    if constexpr (tall) loadTile<5>(x + xTileBytes, kLineBytes);
    loadTile<6>(weights, kLineBytes);
    multiplyTiles<0, 4, 6>();
    if constexpr (tall) multiplyTiles<2, 5, 6>();
    if constexpr (panels > 1) {
      loadTile<7>(weights + panelStride, kLineBytes);
      multiplyTiles<1, 4, 7>();
      if constexpr (tall) multiplyTiles<3, 5, 7>();
    }
    if constexpr (panels > 2) {
      loadTile<6>(weights + 2 * panelStride, kLineBytes);
      multiplyTiles<2, 4, 6>();
    }
    if constexpr (panels > 3) {
      loadTile<7>(weights + 3 * panelStride, kLineBytes);
      multiplyTiles<3, 4, 7>();
    }
  }

  static void run(const TileArguments& a, const std::byte* x, float* c) {
    const auto strideBytes = a.cStride * static_cast<int64_t>(sizeof(float));
    forSums(c, a.cStride, [&](auto tile, float* target) {
      if (a.accumulate) {
        loadTile<tile>(target, strideBytes);
      } else {
        clearTile<tile>();
        if (tall && a.cStride > kPanelsMax * kPanelColumns) prefetchRows(target, a.cStride);
      }
    });
    const std::byte* weights = a.panel;
    int64_t left = a.depth;
    for (; left >= kBlockInputs; left -= kBlockInputs, weights += kTileBytes) {
      for (int term = 0; term < a.terms; ++term, x += a.xBlockBytes) {
        multiplyBlock(x, a.xTileBytes, weights, a.panelStrideBytes, readAhead(a, panels, weights, kPrefetchBytes));
      }
    }
    if (left > 0) {
      const ShortBlock block(weights, a.panelStrideBytes, panels, left);
      for (int term = 0; term < a.terms; ++term, x += a.xBlockBytes) {
        multiplyBlock(x, a.xTileBytes, block.weights[0], kTileBytes, readAhead(a, panels, weights, kPrefetchBytes));
      }
    }
    forSums(c, a.cStride, [&](auto tile, float* target) { storeTile<tile>(target, strideBytes); });
  }
};

template <int panels, bool first>
void runPart(const TileArguments& a, int64_t row, int64_t lowerRows, int64_t upperRows) {
  const std::byte* x = a.x + row / kTileRows * a.xTileBytes;
  float* c = a.c + row * a.cStride;
  if (upperRows == 0) {
    setShapes(lowerRows, lowerRows);
    Part<panels, false, first>::run(a, x, c);
  } else if constexpr (panels <= 2) {
    setShapes(lowerRows, upperRows);
    Part<panels, true, first>::run(a, x, c);
  }
}

/// Any number of rows; with more than two panels at most 16.
template <int panels>
void tile(const TileArguments& a) {
  for (int64_t row = 0; row < a.rows;) {
    const int64_t lower = std::min(kTileRows, a.rows - row);
    const int64_t upper = panels > 2 ? 0 : std::min(kTileRows, a.rows - row - lower);
    if (row == 0) {
      runPart<panels, true>(a, row, lower, upper);
    } else {
      runPart<panels, false>(a, row, lower, upper);
    }
    row += lower + upper;
  }
}

/// The chains of up to 16 rows with one panel of integers, in registers: each product of tiles is one block's, which
/// has a scale. Two products are on their way while the two before them are added.
template <int height>
class ScaledChains {
 public:
  HELS_AVX512 ScaledChains(const TileArguments& arguments, int64_t panel, int64_t firstRow)
      : a_(arguments),
        rows_(std::min(kTileRows, a_.rows - firstRow)),
        x_(a_.x + firstRow / kTileRows * a_.xTileBytes),
        weights_(a_.panel + panel * a_.panelStrideBytes),
        scales_(a_.scales + panel * a_.scaleStride),
        c_(a_.c + firstRow * a_.cStride + panel * kPanelColumns) {}

  HELS_AVX512 void run() {
    __m512 sums[height];
#pragma GCC unroll 16
    for (int64_t row = 0; row < height; ++row) {
      sums[row] = a_.accumulate && row < rows_ ? _mm512_loadu_ps(c_ + row * a_.cStride) : _mm512_setzero_ps();
    }
    const int64_t products = divCeil(a_.depth, kBlockInputs) * a_.terms;
    int64_t i = 0;
    for (; i + 2 <= products; i += 2) {
      multiply<0>(i);
      multiply<1>(i + 1);
      if (i > 0) {
        add(i - 2, sums);
        add(i - 1, sums);
      }
      storeTile<0>(products_[i % kHeld], kLineBytes);
      storeTile<1>(products_[(i + 1) % kHeld], kLineBytes);
    }
    if (i > 0) {
      add(i - 2, sums);
      add(i - 1, sums);
    }
    if (i < products) {
      multiply<0>(i);
      storeTile<0>(products_[i % kHeld], kLineBytes);
      add(i, sums);
    }
#pragma GCC unroll 16
    for (int64_t row = 0; row < height; ++row) {
      if (row < rows_) _mm512_storeu_ps(c_ + row * a_.cStride, sums[row]);
    }
  }

 private:
  static constexpr int64_t kHeld = 4;

  /// The product of a term of a block: its block is i / terms.
  template <int tile>
  void multiply(int64_t i) {
    clearTile<tile>();
    loadTile<4 + tile>(x_ + i * a_.xBlockBytes, kLineBytes);
    loadTile<6 + tile>(weights_ + i / a_.terms * kTileBytes, kLineBytes);
    multiplyTiles<tile, 4 + tile, 6 + tile>();
  }

  HELS_AVX512 void add(int64_t i, __m512 (&sums)[height]) const {
    const __m512 scale = _mm512_loadu_ps(scales_ + i / a_.terms * kPanelColumns);
#pragma GCC unroll 16
    for (int64_t row = 0; row < height; ++row) {
      const __m512 product = _mm512_load_ps(&products_[i % kHeld][row * kPanelColumns]);
      sums[row] = _mm512_fmadd_ps(scale, product, sums[row]);
    }
  }

  const TileArguments& a_;
  const int64_t rows_;
  const std::byte* x_;
  const std::byte* weights_;
  const float* scales_;
  float* c_;
  alignas(64) float products_[kHeld][kTileRows * kPanelColumns];
};

/// Functions of their own, so that no arithmetic moves out of the caller's SubnormalFlush.
template <int height>
HELS_AVX512 __attribute__((noinline)) void addScaled(const TileArguments& a, int panels, int64_t firstRow) {
  const int64_t rows = std::min(kTileRows, a.rows - firstRow);
  setShapes(rows, rows);
  for (int panel = 0; panel < panels; ++panel) ScaledChains<height>(a, panel, firstRow).run();
}

/// Any number of rows.
template <int panels>
HELS_AVX512 void scaledTile(const TileArguments& a) {
  const avx2::SubnormalFlush flush;
  for (int64_t row = 0; row < a.rows; row += kTileRows) {
    const int64_t rows = a.rows - row;
    const auto add = rows <= 4 ? addScaled<4> : rows <= 8 ? addScaled<8> : addScaled<kTileRows>;
    add(a, panels, row);
  }
}

/// As ChainTileSet::dequantize.
template <Quantization quantization>
void dequantizeBlocks(const std::byte* groups, int64_t inputs, uint16_t* target, float* scales) {
  avx512::dequantize<quantization, PairOrder::kNeighbours>(groups, inputs, target, scales);
  const int64_t written = roundUp(inputs, unitInputs(quantization));
  std::fill(target + written * kPanelColumns, target + roundUp(inputs, kBlockInputs) * kPanelColumns, uint16_t{0});
}

/// 32 inputs as one or two terms in the order kNeighbours.
HELS_AVX512 void narrowBlock(const float* source, uint16_t* upperTerms, uint16_t* lowerTerms) {
  const __m512 values[] = {_mm512_loadu_ps(source), _mm512_loadu_ps(source + 16)};
  const __m512i upper = avx512::roundedToBf16(values[0], values[1]);
  _mm512_storeu_si512(upperTerms, upper);
  if (lowerTerms == nullptr) return;
  const __m512i lower = avx512::roundedToBf16(avx512::restOf(values[0], upper, 0), avx512::restOf(values[1], upper, 1));
  _mm512_storeu_si512(lowerTerms, lower);
}

void narrowBlocks(const float* source, int64_t count, int terms, uint16_t* target, int64_t stride) {
  narrowInBlocks(source, count, terms, target, stride, narrowBlock);
}

ChainTileSet makeSet() {
  ChainTileSet set = avx512TileSet();
  set.isa = Isa::kAmx;
  set.narrowBlocks = narrowBlocks;
  set.depthBlock = 512;
  set.rowsMax[kTilePairs] = set.rowsMax[kTileScaled] = kTileRowsMax;
  set.inputTiles = true;
  set.forFewRows = &avx512Bf16TileSet();
  set.fewRowsMax = 1;
  set.begin = beginTiles;
  set.end = endTiles;
  for (int rows = 1; rows <= kTileRowsMax; ++rows) {
    const bool tall = rows > kTileRows;
    set.panels[kTilePairs][rows - 1] = tall ? 2 : kPanelsMax;
    set.wide[kTilePairs][rows - 1] = tall ? tile<2> : tile<kPanelsMax>;
    set.single[kTilePairs][rows - 1] = tile<1>;
    set.panels[kTileScaled][rows - 1] = 2;
    set.wide[kTileScaled][rows - 1] = scaledTile<2>;
    set.single[kTileScaled][rows - 1] = scaledTile<1>;
  }
  addFewRowsKernels(set);
  set.dequantize[0] = dequantizeBlocks<Quantization::kInt8>;
  set.dequantize[1] = dequantizeBlocks<Quantization::kInt4>;
  return set;
}

}  // namespace

const ChainTileSet& amxTileSet() {
  static const ChainTileSet set = makeSet();
  return set;
}

}  // namespace hels

#endif
