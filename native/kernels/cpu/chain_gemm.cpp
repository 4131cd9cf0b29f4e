// Drives the chain tiles over a whole product: panels over threads, rows in tiles, depth in blocks that stay in the
// first-level cache. Blocking the depth only pauses a chain, so none of this changes a bit.
#include <algorithm>
#include <atomic>

#include "kernels/cpu/chain_tile.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/packed_matrix.h"
#include "kernels/cpu/parallel.h"

namespace hels {
namespace {

constexpr int64_t kDepthBlock = 256;    // 16 KiB of f32 panel
constexpr int64_t kRowBlock = 64;       // rows whose partials wait for the fixed-point sum, 4 KiB
constexpr int64_t kDirectTilesMax = 2;  // row tiles that widen weights as they load them, cheaper than in advance
constexpr int64_t kPanelsPerCallMax = 8;
constexpr int64_t kParallelWorkMin = 256 * 1024;  // multiplications below which forming a team costs more than it saves

struct Operand {
  const float* data;  // (rows, depth)
  int64_t stride;
  int64_t rows;
};

class ChainGemm final : public Gemm {
 public:
  ChainGemm(int threads, Isa isa) : threads_(threads), tiles_(chainTileSet(isa)) {}

  std::string implementation() const override { return std::string("chain/") + isaName(tiles_.isa); }

  size_t packedBytes(DataType type, int64_t columns, int64_t depth) const override {
    return static_cast<size_t>(roundUp(columns, kPanelColumns) * depth) * bytesOf(type);
  }

  void pack(const WeightMatrix& matrix, int64_t firstColumn, int64_t count, const std::byte* source) const override {
    packRows(matrix, firstColumn, count, source);
  }

  void multiply(const WeightMatrix& matrix, const float* x, int64_t xStride, int64_t rows, float* y,
                int64_t yStride) override {
    const Operand operand{x, xStride, rows};
    forPanelGroups(matrix, rows, [&](int64_t panel, int64_t panels) {
      chains(matrix, panel, panels, 0, matrix.depth, operand, y + panel * kPanelColumns, yStride);
    });
  }

  int64_t multiplyFixedPoint(const WeightMatrix& matrix, const float* x, int64_t xStride, int64_t rows,
                             int64_t granuleDepth, int64_t* sums, int64_t sumStride) override {
    std::atomic<int64_t> badRow{-1};
    forPanelGroups(matrix, rows, [&](int64_t panel, int64_t panels) {
      for (int64_t row = 0; row < rows; row += kRowBlock) {
        const Operand operand{x + row * xStride, xStride, std::min(kRowBlock, rows - row)};
        const int64_t bad =
            addGranules(matrix, panel, panels, operand, granuleDepth, sums + row * sumStride, sumStride);
        if (bad >= 0) badRow.store(row + bad);
      }
    });
    return badRow.load();
  }

 private:
  /// body(firstPanel, panels) for all panels, as many at once as the kernels take for so few rows.
  template <typename Body>
  void forPanelGroups(const WeightMatrix& matrix, int64_t rows, const Body& body) const {
    if (rows == 0 || matrix.columns == 0) return;
    const int64_t panels = panelCount(matrix);
    const int64_t group = rows <= tiles_.rowsMax ? tiles_.panels[rows - 1] : 1;
    const int threads = panels * kPanelColumns * matrix.depth * rows < kParallelWorkMin ? 1 : threads_;
    parallelFor(threads, divCeil(panels, group), [&](int64_t item) {
      const int64_t first = item * group;
      if (first + group <= panels) {
        body(first, group);
      } else {
        for (int64_t panel = first; panel < panels; ++panel) body(panel, 1);
      }
    });
  }

  /// c(rows, panels * 16) = the chains over k in [begin, begin + depth).
  void chains(const WeightMatrix& matrix, int64_t panel, int64_t panels, int64_t begin, int64_t depth, const Operand& x,
              float* c, int64_t cStride) const {
    if (x.rows > tiles_.rowsMax) return blockedChains(matrix, panel, begin, depth, x, c, cStride);
    const auto type = static_cast<int>(matrix.type);
    TileArguments a;
    a.x = x.data + begin;
    a.xStride = x.stride;
    a.panelStrideBytes = panelBytes(matrix);
    a.panel =
        matrix.data + panel * a.panelStrideBytes + begin * kPanelColumns * static_cast<int64_t>(bytesOf(matrix.type));
    a.depth = depth;
    a.c = c;
    a.cStride = cStride;
    (panels > 1 ? tiles_.wide : tiles_.single)[type][x.rows - 1](a);
  }

  /// The same for one panel and many rows: a block of the panel is widened once and stays in cache for all row tiles.
  void blockedChains(const WeightMatrix& matrix, int64_t panel, int64_t begin, int64_t depth, const Operand& x,
                     float* c, int64_t cStride) const {
    alignas(64) float widened[kDepthBlock * kPanelColumns];
    const int64_t tileCount = divCeil(x.rows, tiles_.rowsMax);
    const auto elementBytes = static_cast<int64_t>(bytesOf(matrix.type));
    const DataType type = tileCount > kDirectTilesMax ? DataType::kF32 : matrix.type;
    TileArguments a;
    a.xStride = x.stride;
    a.cStride = cStride;
    for (int64_t k = begin; k < begin + depth; k += kDepthBlock) {
      a.depth = std::min(kDepthBlock, begin + depth - k);
      a.accumulate = k > begin;
      a.panel = matrix.data + panel * panelBytes(matrix) + k * kPanelColumns * elementBytes;
      if (matrix.type != type) {
        tiles_.widen(matrix.type, a.panel, widened, a.depth * kPanelColumns);
        a.panel = reinterpret_cast<const std::byte*>(widened);
      }
      for (int64_t tile = 0; tile < tileCount; ++tile) {  // tiles of equal height, to within a row
        const int64_t row = tile * x.rows / tileCount;
        const int64_t rows = (tile + 1) * x.rows / tileCount - row;
        a.x = x.data + row * x.stride + k;
        a.c = c + row * cStride;
        tiles_.single[static_cast<int>(type)][rows - 1](a);
      }
    }
  }

  /// Adds every granule's chains of x.rows <= kRowBlock rows. Returns -1 or a row that is out of range.
  int64_t addGranules(const WeightMatrix& matrix, int64_t panel, int64_t panels, const Operand& x, int64_t granuleDepth,
                      int64_t* sums, int64_t sumStride) const {
    // Few rows take several panels, many rows one: the larger of the two products.
    alignas(64) float partial[std::max(kRowBlock, kTileRowsMax * kPanelsPerCallMax) * kPanelColumns];
    const int64_t stride = panels * kPanelColumns;
    for (int64_t begin = 0; begin < matrix.depth; begin += granuleDepth) {
      chains(matrix, panel, panels, begin, std::min(granuleDepth, matrix.depth - begin), x, partial, stride);
      for (int64_t row = 0; row < x.rows; ++row) {
        for (int64_t i = 0; i < panels; ++i) {
          const int64_t column = (panel + i) * kPanelColumns;
          const float* values = partial + row * stride + i * kPanelColumns;
          if (!addPanel(values, sums + row * sumStride + column, matrix.columns - column)) return row;
        }
      }
    }
    return -1;
  }

  bool addPanel(const float* values, int64_t* sums, int64_t columns) const {
    if (columns >= kPanelColumns) return tiles_.addFixedPoint(values, sums);
    int64_t padded[kPanelColumns] = {};
    const bool good = tiles_.addFixedPoint(values, padded);
    for (int64_t i = 0; i < columns; ++i) sums[i] += padded[i];
    return good;
  }

  const int threads_;
  const ChainTileSet& tiles_;
};

}  // namespace

std::unique_ptr<Gemm> makeChainGemm(int threads, Isa isa) { return std::make_unique<ChainGemm>(threads, isa); }

}  // namespace hels
