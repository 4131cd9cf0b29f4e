// Drives the chain tiles over a whole product: panels over threads, rows in tiles, depth in blocks that stay in the
// first-level cache. Blocking the depth only pauses a chain, so none of this changes a bit.
#include <algorithm>
#include <vector>

#include "base/error.h"
#include "kernels/cpu/chain_operand.h"
#include "kernels/cpu/chain_tile.h"
#include "kernels/cpu/fixed_point.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/packed_matrix.h"
#include "kernels/cpu/parallel.h"

namespace hels {
namespace {

constexpr int64_t kWidenedDepth = 256;  // 16 KiB of f32 panel
constexpr int64_t kRowBlock = 64;       // rows whose partials wait for the fixed-point sum, 4 KiB
constexpr int64_t kDirectTilesMax = 2;  // row tiles that widen weights as they load them, cheaper than in advance
constexpr int64_t kManyRows = 8;        // more of them take at most 4 panels a call, fewer 8, blocks of them at most 2
// Rows of narrowed inputs lie a line further apart than they are long: with a depth of a power of two all rows of a
// tile would fall into the same sets of the first-level cache.
constexpr int64_t kNarrowedPadding = 32;
constexpr int64_t kDequantizedElements = 16384;  // of all panels of a call: 32 KiB of pairs
constexpr int64_t kParallelNarrowMin = int64_t{32} * 1024;
constexpr int64_t kParallelWorkMin =
    int64_t{256} * 1024;  // multiplications below which forming a team costs more than it saves

class ChainGemm final : public Gemm {
 public:
  ChainGemm(int threads, const ChainTileSet& tiles) : threads_(threads), tiles_(tiles) {
    if (tiles.forFewRows != nullptr) few_ = std::make_unique<ChainGemm>(threads, *tiles.forFewRows);
  }

  std::string implementation() const override { return std::string("chain/") + isaName(tiles_.isa); }

  size_t packedBytes(const WeightMatrix& matrix) const override {
    return static_cast<size_t>(panelCount(matrix) * panelBytes(matrix));
  }

  void pack(const WeightMatrix& matrix, int64_t firstColumn, int64_t count, const std::byte* source) const override {
    packRows(matrix, tiles_.pairOrder, firstColumn, count, source);
  }

  void unpack(const WeightMatrix& matrix, int64_t column, float* target) const override {
    unpackColumn(matrix, tiles_.pairOrder, column, target);
  }

  void packQuantized(const WeightMatrix& matrix, int64_t firstColumn, int64_t count, const int8_t* values,
                     const uint16_t* scales) const override {
    packQuantizedRows(matrix, firstColumn, count, values, scales);
  }

  size_t workspaceBytes(DataType type, int64_t rows, int64_t depth) const override {
    if (type != DataType::kBf16) return 0;
    const size_t own = narrowedElements(rows, depth) * sizeof(uint16_t);
    return few_ == nullptr ? own : own + few_->workspaceBytes(type, fewOf(rows), depth);
  }

  void reserve(DataType type, int64_t rows, int64_t depth) override {
    if (type == DataType::kBf16) narrowed_.reserve(narrowedElements(rows, depth));
    if (few_ != nullptr) few_->reserve(type, fewOf(rows), depth);
  }

  void multiply(const WeightMatrix& matrix, const float* x, int64_t xStride, int64_t rows, float* y,
                int64_t yStride) override {
    if (areFew(matrix, rows)) return few_->multiply(matrix, x, xStride, rows, y, yStride);
    const Operand operand = operandOf(matrix, x, xStride, rows, matrix.depth);
    const int64_t oneTerm = matrix.oneTermColumns;
    if (oneTerm > 0) multiplyColumns(columnsOf(matrix, 0, oneTerm), operand.upperTerms(), y, yStride);
    multiplyColumns(columnsOf(matrix, oneTerm, matrix.columns), operand, y + oneTerm, yStride);
  }

  int64_t multiplyFixedPoint(const WeightMatrix& matrix, const float* x, int64_t xStride, int64_t rows,
                             int64_t granuleDepth, int64_t* sums, int64_t sumStride) override {
    if (areFew(matrix, rows)) {
      return few_->multiplyFixedPoint(matrix, x, xStride, rows, granuleDepth, sums, sumStride);
    }
    const Operand operand = operandOf(matrix, x, xStride, rows, granuleDepth);
    LeastItem badRow;
    forPanelGroups(matrix, rows, [&](int64_t panel, int64_t panels) {
      // Blocks of equal height, to within a row or a tile (the least is 18 of 66 rows): a last block of a few rows
      // would go to kernels that take more panels.
      const int64_t blocks = divCeil(rows, kRowBlock);
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t row = firstOfBlock(rows, block, blocks);
        const int64_t count = firstOfBlock(rows, block + 1, blocks) - row;
        const int64_t bad = addGranules(matrix, panel, panels, operand.part(row, count), granuleDepth,
                                        sums + row * sumStride, sumStride);
        if (bad >= 0) badRow.note(row + bad);
      }
    });
    return badRow.get();
  }

 private:
  static size_t narrowedElements(int64_t rows, int64_t depth) {
    return static_cast<size_t>(roundUp(rows, kInputTileRows) * (roundUp(depth, kBlockInputs) + kNarrowedPadding));
  }
  int64_t fewOf(int64_t rows) const { return std::min<int64_t>(rows, tiles_.fewRowsMax); }
  bool areFew(const WeightMatrix& matrix, int64_t rows) const {
    return few_ != nullptr && matrix.quantization != Quantization::kNone && rows <= tiles_.fewRowsMax;
  }

  int64_t firstOfBlock(int64_t rows, int64_t block, int64_t blocks) const {
    const int64_t row = block * rows / blocks;
    return tiles_.inputTiles ? std::min(rows, roundUp(row, kInputTileRows)) : row;
  }

  static int termsOf(const WeightMatrix& matrix) { return matrix.inputs == Inputs::kTwoBf16 ? 2 : 1; }

  void multiplyColumns(const WeightMatrix& matrix, const Operand& x, float* y, int64_t yStride) const {
    forPanelGroups(matrix, x.rows, [&](int64_t panel, int64_t panels) {
      chains(matrix, panel, panels, 0, matrix.depth, x, y + panel * kPanelColumns, yStride);
    });
  }

  /// x as the kernels read it: rounded to bf16 once for all columns, in whole blocks for each granule.
  Operand operandOf(const WeightMatrix& matrix, const float* x, int64_t xStride, int64_t rows, int64_t granule) {
    constexpr int64_t kElementBytes = sizeof(uint16_t);
    Operand operand{reinterpret_cast<const std::byte*>(x), rows, xStride * static_cast<int64_t>(sizeof(float))};
    if (matrix.inputs == Inputs::kF32 || matrix.depth == 0) return operand;
    operand.granule = granule;
    operand.terms = termsOf(matrix);
    const int64_t terms = divCeil(granule, kBlockInputs) * divCeil(matrix.depth, granule) * operand.terms;
    const int64_t tileRows = tiles_.inputTiles ? std::clamp<int64_t>(rows, 1, kInputTileRows) : 1;
    const int64_t blockStride = tileRows * kBlockInputs;
    const int64_t tileStride = terms * blockStride + (tiles_.inputTiles ? 0 : kNarrowedPadding);
    narrowed_.resize(static_cast<size_t>(divCeil(rows, tileRows) * tileStride));
    parallelFor(rows * matrix.depth < kParallelNarrowMin ? 1 : threads_, rows, [&](int64_t row) {
      uint16_t* target = narrowed_.data() + row / tileRows * tileStride + row % tileRows * kBlockInputs;
      for (int64_t k = 0; k < matrix.depth; k += granule) {
        tiles_.narrowBlocks(x + row * xStride + k, std::min(granule, matrix.depth - k), operand.terms, target,
                            blockStride);
        target += divCeil(granule, kBlockInputs) * operand.terms * blockStride;
      }
    });
    operand.data = reinterpret_cast<const std::byte*>(narrowed_.data());
    operand.strideBytes = (tiles_.inputTiles ? kBlockInputs : tileStride) * kElementBytes;
    operand.blockBytes = blockStride * kElementBytes;
    operand.tileBytes = tiles_.inputTiles ? tileStride * kElementBytes : 0;
    return operand;
  }

  /// body(firstPanel, panels) for all panels, as many at once as the kernels take for so many rows. More rows than one
  /// tile holds are cut into tiles of more than half its height, which all take as many panels as the highest.
  template <typename Body>
  void forPanelGroups(const WeightMatrix& matrix, int64_t rows, const Body& body) const {
    if (rows == 0 || matrix.columns == 0) return;
    const int64_t panels = panelCount(matrix);
    const TileKind kind = kindOf(matrix, rows);
    const int64_t group = tiles_.panels[kind][std::min<int64_t>(rows, tiles_.rowsMax[kind]) - 1];
    const int threads = panels * kPanelColumns * matrix.depth * rows < kParallelWorkMin ? 1 : threads_;
    parallelForParts(threads, divCeil(panels, group), [&](int64_t begin, int64_t end) {
      if (tiles_.begin != nullptr) tiles_.begin();
      for (int64_t first = begin * group; first < std::min(panels, end * group); first += group) {
        if (first + group <= panels) {
          body(first, group);
        } else {
          for (int64_t panel = first; panel < panels; ++panel) body(panel, 1);
        }
      }
      if (tiles_.end != nullptr) tiles_.end();
    });
  }

  /// c(rows, panels * 16) = the chains over k in [begin, begin + depth).
  void chains(const WeightMatrix& matrix, int64_t panel, int64_t panels, int64_t begin, int64_t depth, const Operand& x,
              float* c, int64_t cStride) const {
    if (matrix.quantization != Quantization::kNone) {
      if (widensAsItLoads(kindOf(matrix, x.rows)))
        return directChains(matrix, panel, panels, begin, depth, x, c, cStride);
      return quantizedChains(matrix, panel, panels, begin, depth, x, c, cStride);
    }
    const TileKind kind = tileKind(matrix.type, matrix.inputs);
    if (x.rows > tiles_.rowsMax[kind]) return blockedChains(matrix, panel, panels, begin, depth, x, c, cStride);
    TileArguments a = tileAt(matrix, panel, begin, x);
    a.depth = depth;
    a.c = c;
    a.cStride = cStride;
    const auto& kernels = panels > 1 ? tiles_.wide : tiles_.single;
    kernels[kind][x.rows - 1](a);
  }

  /// The same for many rows: a block of the panels stays in cache for all row tiles, widened once for f32 inputs.
  void blockedChains(const WeightMatrix& matrix, int64_t panel, int64_t panels, int64_t begin, int64_t depth,
                     const Operand& x, float* c, int64_t cStride) const {
    alignas(64) float widened[kWidenedDepth * kPanelColumns];
    const TileKind own = tileKind(matrix.type, matrix.inputs);
    const int64_t tileCount = tiles_.tileCount(own, x.rows);
    const bool widen = bytesOf(matrix.type) == 2 && matrix.inputs == Inputs::kF32 && tileCount > kDirectTilesMax;
    const TileKind kind = widen ? kTileF32 : own;
    const int64_t depthBlock = widen ? kWidenedDepth : tiles_.depthBlock;
    for (int64_t k = begin; k < begin + depth; k += depthBlock) {
      TileArguments a = tileAt(matrix, panel, k, x);
      a.depth = std::min(depthBlock, begin + depth - k);
      a.accumulate = k > begin;
      a.cStride = cStride;
      if (widen) {
        tiles_.widen(matrix.type, a.panel, widened, a.depth * kPanelColumns);
        a.panel = reinterpret_cast<const std::byte*>(widened);
      }
      a.c = c;
      runTiles(kind, panels, a);
    }
  }

  /// The same for few rows with quantised weights that are widened as they are loaded, granule by granule.
  void directChains(const WeightMatrix& matrix, int64_t panel, int64_t panels, int64_t begin, int64_t depth,
                    const Operand& x, float* c, int64_t cStride) const {
    const TileKernel kernel = (panels > 1 ? tiles_.wide : tiles_.single)[kindOf(matrix, x.rows)][x.rows - 1];
    TileArguments a = argumentsOf(x);
    a.panelStrideBytes = panelBytes(matrix);
    a.c = c;
    a.cStride = cStride;
    for (int64_t k = begin; k < begin + depth; k += a.depth) {
      a.x = x.at(k);
      a.panel = matrix.data + panel * a.panelStrideBytes + groupOffset(matrix, k);
      a.panelBytesLeft = a.panelStrideBytes - groupOffset(matrix, k);
      a.depth = std::min(begin + depth - k, matrix.granule - k % matrix.granule);
      a.accumulate = k > begin;
      kernel(a);
    }
  }

  /// The same for quantised weights, whatever the rows: a block of the panels is widened to bf16 while it is in cache.
  void quantizedChains(const WeightMatrix& matrix, int64_t panel, int64_t panels, int64_t begin, int64_t depth,
                       const Operand& x, float* c, int64_t cStride) const {
    alignas(64) uint16_t pairs[kDequantizedElements];
    alignas(64) float scales[kDequantizedElements / kBlockInputs];
    const int64_t blockDepth = kDequantizedElements / panels / kPanelColumns / kBlockInputs * kBlockInputs;
    for (int64_t k = begin, end = begin; k < begin + depth; k = end) {
      end = blockEnd(matrix, k, blockDepth, begin + depth);
      const int64_t blocks = divCeil(end - k, kBlockInputs);
      const int64_t stride = blocks * kBlockInputs * kPanelColumns;
      TileArguments a = argumentsOf(x);
      a.scaleStride = blocks * kPanelColumns;
      for (int64_t i = 0; i < panels; ++i) {
        dequantizePanel(matrix, panel + i, k, end, pairs + i * stride, scales + i * a.scaleStride);
      }
      a.x = x.at(k);
      a.panel = reinterpret_cast<const std::byte*>(pairs);
      a.panelStrideBytes = stride * static_cast<int64_t>(sizeof(uint16_t));
      a.scales = scales;
      a.depth = end - k;
      a.accumulate = k > begin;
      a.c = c;
      a.cStride = cStride;
      runTiles(kTileScaled, panels, a);
    }
  }

  /// The last group's end that is at most `blockDepth` inputs after `k`, where a group begins.
  static int64_t blockEnd(const WeightMatrix& matrix, int64_t k, int64_t blockDepth, int64_t end) {
    if (k + blockDepth >= end) return end;
    const int64_t inGranule = (k + blockDepth) % matrix.granule;
    return k + blockDepth - inGranule % kGroupInputs;
  }

  /// Inputs [k, end) of a panel, groups of one granule at a time.
  void dequantizePanel(const WeightMatrix& matrix, int64_t panel, int64_t k, int64_t end, uint16_t* target,
                       float* scales) const {
    const std::byte* data = matrix.data + panel * panelBytes(matrix);
    const auto dequantize = tiles_.dequantize[static_cast<int>(matrix.quantization) - 1];
    while (k < end) {
      const int64_t inputs = std::min(end - k, matrix.granule - k % matrix.granule);
      dequantize(data + groupOffset(matrix, k), inputs, target, scales);
      target += inputs * kPanelColumns;
      scales += divCeil(inputs, kGroupInputs) * kPanelColumns;
      k += inputs;
    }
  }

  /// All rows through the kernels of a kind, most of which take those of one tile.
  void runTiles(TileKind kind, int64_t panels, TileArguments a) const {
    const auto& kernels = (panels > 1 ? tiles_.wide : tiles_.single)[kind];
    const int64_t rows = a.rows;
    if (tiles_.inputTiles && (kind == kTilePairs || kind == kTileScaled))
      return kernels[std::min<int64_t>(rows, tiles_.rowsMax[kind]) - 1](a);
    const int64_t tileCount = tiles_.tileCount(kind, rows);
    const std::byte* x = a.x;
    float* c = a.c;
    for (int64_t tile = 0; tile < tileCount; ++tile) {  // tiles of equal height, to within a row
      const int64_t row = tile * rows / tileCount;
      a.x = x + row * a.xStrideBytes;
      a.c = c + row * a.cStride;
      a.rows = (tile + 1) * rows / tileCount - row;
      kernels[a.rows - 1](a);
    }
  }

  static bool widensAsItLoads(TileKind kind) { return kind >= kTileInt8; }

  /// The kernels for so many rows: of a matrix as it lies, or of the blocks that a quantised one is widened to.
  TileKind kindOf(const WeightMatrix& matrix, int64_t rows) const {
    if (matrix.quantization == Quantization::kNone) return tileKind(matrix.type, matrix.inputs);
    const TileKind direct = matrix.quantization == Quantization::kInt8 ? kTileInt8 : kTileInt4;
    return rows <= kTileRowsMax && tiles_.single[direct][rows - 1] != nullptr ? direct : kTileScaled;
  }

  static TileArguments argumentsOf(const Operand& x) {
    TileArguments a;
    a.xStrideBytes = x.strideBytes;
    a.xBlockBytes = x.blockBytes;
    a.xTileBytes = x.tileBytes;
    a.rows = x.rows;
    a.terms = x.terms;
    return a;
  }

  /// Operands from input `begin` on (a multiple of 4 for bf16 inputs) of `panel` and those after it.
  static TileArguments tileAt(const WeightMatrix& matrix, int64_t panel, int64_t begin, const Operand& x) {
    TileArguments a = argumentsOf(x);
    a.x = x.at(begin);
    a.panelStrideBytes = panelBytes(matrix);
    const int64_t offset = begin * kPanelColumns * static_cast<int64_t>(bytesOf(matrix.type));
    a.panel = matrix.data + panel * a.panelStrideBytes + offset;
    a.panelBytesLeft = a.panelStrideBytes - offset;
    return a;
  }

  /// The sums of every granule's chains of x.rows <= kRowBlock rows. Returns -1 or the first row that is out of range.
  int64_t addGranules(const WeightMatrix& matrix, int64_t panel, int64_t panels, const Operand& x, int64_t granuleDepth,
                      int64_t* sums, int64_t sumStride) const {
    constexpr int64_t kPanelRows = std::max({kManyRows * 8, kTileRowsMax * int64_t{4}, kRowBlock * 2});
    alignas(64) float partial[kPanelRows * kPanelColumns];
    // Where `sums` belong their rows are kilobytes apart, often in the same few sets of the first-level cache.
    alignas(64) int64_t totals[kPanelRows * kPanelColumns];
    const int64_t stride = panels * kPanelColumns;
    std::fill_n(totals, x.rows * stride, 0);
    int64_t bad = -1;
    for (int64_t begin = 0; begin < matrix.depth; begin += granuleDepth) {
      chains(matrix, panel, panels, begin, std::min(granuleDepth, matrix.depth - begin), x, partial, stride);
      if (tiles_.addFixedPoint(partial, totals, x.rows * stride)) continue;
      const int64_t row = badRow(partial, x.rows, stride);
      bad = bad < 0 ? row : std::min(bad, row);
    }
    if (bad >= 0) return bad;
    const int64_t first = panel * kPanelColumns;
    const int64_t columns = std::min(stride, matrix.columns - first);
    for (int64_t row = 0; row < x.rows; ++row) {
      int64_t* target = sums + row * sumStride + first;
      std::copy_n(totals + row * stride, columns, target);
    }
    return -1;
  }

  /// The first row with a value out of range; there is one.
  static int64_t badRow(const float* partial, int64_t rows, int64_t stride) {
    const float* end = partial + rows * stride;
    return (std::find_if_not(partial, end, inFixedPointRange) - partial) / stride;
  }

  const int threads_;
  const ChainTileSet& tiles_;
  std::unique_ptr<ChainGemm> few_;  // for products of few rows, if other kernels take them
  std::vector<uint16_t, LineAllocator<uint16_t>> narrowed_;
};

}  // namespace

void WeightPacker::packQuantized(const WeightMatrix& /*matrix*/, int64_t /*firstColumn*/, int64_t /*count*/,
                                 const int8_t* /*values*/, const uint16_t* /*scales*/) const {
  throw Error(ErrorCode::kShapeInvalid, implementation() + " has no products with quantised weights");
}

std::unique_ptr<Gemm> makeChainGemm(int threads, Isa isa) {
  return std::make_unique<ChainGemm>(threads, chainTileSet(isa));
}

}  // namespace hels
