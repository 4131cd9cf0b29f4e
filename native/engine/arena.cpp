#include "engine/arena.h"

#include <sys/mman.h>

#include <string>

#include "base/error.h"
#include "base/pages.h"

namespace hels {
namespace {

constexpr size_t kAlignmentBytes = 64;

}  // namespace

Arena::Arena(size_t sizeBytes, const char* purpose, ArenaPages pages) : sizeBytes_(sizeBytes), counting_(false) {
  if (sizeBytes == 0) return;
  void* region = mmap(nullptr, sizeBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  require(region != MAP_FAILED, ErrorCode::kMemoryExceeded,
          "the system refused " + std::to_string(sizeBytes) + " bytes for " + purpose);
  // Hints: a system that takes none of them is only slower.
  madvise(region, sizeBytes, pages == ArenaPages::kSmall ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
  data_ = static_cast<std::byte*>(region);
  if (pages == ArenaPages::kLargeNow) populate();
}

Arena::Arena(std::byte* region, size_t sizeBytes)
    : data_(region), sizeBytes_(sizeBytes), counting_(false), owner_(false) {}

Arena::~Arena() {
  if (owner_ && data_ != nullptr) munmap(data_, sizeBytes_);
}

void Arena::populate() {
  if (data_ != nullptr) madvise(data_, sizeBytes_, MADV_POPULATE_WRITE);
}

size_t Arena::residentBytes() const { return data_ == nullptr ? 0 : hels::residentBytes(data_, sizeBytes_); }

std::byte* Arena::takeBytes(size_t sizeBytes) {
  const size_t begin = usedBytes_;
  usedBytes_ += (sizeBytes + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes;
  if (counting_) return nullptr;
  require(usedBytes_ <= sizeBytes_, ErrorCode::kInternal,
          "an arena of " + std::to_string(sizeBytes_) + " bytes was asked for " + std::to_string(usedBytes_));
  return data_ + begin;
}

}  // namespace hels
