// The inputs of a product as the chain kernels read them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

#include "kernels/cpu/chain_tile.h"

namespace hels {

/// Inputs as the kernels read them: f32 as they are, bf16 in blocks, which begin anew with each granule.
struct Operand {
  const std::byte* data;
  int64_t rows;
  int64_t strideBytes;
  int64_t blockBytes = 0;  // 0: f32
  int64_t tileBytes = 0;   // 0: rows follow each other
  int64_t granule = 0;
  int terms = 1;

  /// Where input `k` lies, the first of a block.
  const std::byte* at(int64_t k) const {
    if (blockBytes == 0) return data + k * static_cast<int64_t>(sizeof(float));
    const int64_t block = k / granule * divCeil(granule, kBlockInputs) + k % granule / kBlockInputs;
    return data + block * terms * blockBytes;
  }
  /// The upper of two terms alone.
  Operand upperTerms() const {
    Operand upper = *this;
    upper.terms = 1;
    upper.blockBytes = 2 * blockBytes;
    return upper;
  }
  /// Rows from `firstRow` on, with tiles a multiple of theirs.
  Operand part(int64_t firstRow, int64_t count) const {
    Operand rowsOf = *this;
    rowsOf.data += tileBytes == 0 ? firstRow * strideBytes : firstRow / kInputTileRows * tileBytes;
    rowsOf.rows = count;
    return rowsOf;
  }
};

/// Of vectors that begin with a line of the cache: a tile's load takes one line a row, or two where they do not.
template <typename Element>
struct LineAllocator {
  using value_type = Element;
  static constexpr std::align_val_t kLine{64};

  Element* allocate(size_t count) { return static_cast<Element*>(::operator new(count * sizeof(Element), kLine)); }
  void deallocate(Element* elements, size_t /*count*/) { ::operator delete(elements, kLine); }
  bool operator==(const LineAllocator& /*other*/) const { return true; }
};

}  // namespace hels
