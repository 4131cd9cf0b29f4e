// Blocks of CUDA threads as fibers of one thread of the host.
#include <cuda_runtime.h>
#include <sched.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "kernels/cuda/emulation/fiber_switch.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define HELS_FIBER_SANITIZER 1
#endif

namespace hels::emulation {
namespace {

constexpr size_t kStackBytes = size_t{96} * 1024;

struct Barrier {
  int threads = 0;  // that have not returned
  int arrived = 0;
  uint64_t round = 0;
};

struct Fiber {
  FiberContext context;
  std::unique_ptr<std::byte[]> stack = std::make_unique_for_overwrite<std::byte[]>(kStackBytes);
  Position position{};
  int index = 0;
  bool done = false;
  const Barrier* waiting = nullptr;
  uint64_t round = 0;  // of `waiting`, when the wait began
  uint64_t exchanges = 0;
  void* sanitizerStack = nullptr;
};

struct Warp {
  Barrier barrier;
  alignas(16) std::byte values[2][kWarpThreads * kExchangeBytes];
};

struct Block {
  std::vector<std::unique_ptr<Fiber>> fibers;  // kept between launches
  std::vector<std::unique_ptr<Warp>> warps;
  Barrier barrier;
  std::vector<std::byte> shared;
  int predicate = 0;
  FiberContext scheduler;
  Fiber* current = nullptr;
  const std::function<void()>* thread = nullptr;
  void* sanitizerStack = nullptr;
  const void* schedulerStack = nullptr;
  size_t schedulerStackBytes = 0;
};

thread_local Block* block = nullptr;
thread_local uint64_t blockCount = 0;

/// To the scheduler; back when it is this fiber's turn.
void yield(bool last = false) {
  Fiber* fiber = block->current;
#ifdef HELS_FIBER_SANITIZER
  __sanitizer_start_switch_fiber(last ? nullptr : &fiber->sanitizerStack, block->schedulerStack,
                                 block->schedulerStackBytes);
#else
  (void)last;
#endif
  fiber->context.switchTo(block->scheduler);
#ifdef HELS_FIBER_SANITIZER
  __sanitizer_finish_switch_fiber(fiber->sanitizerStack, nullptr, nullptr);
#endif
}

void fullRound(Barrier& barrier) {
  barrier.arrived = 0;
  ++barrier.round;
}

void arrive(Barrier& barrier) {
  if (++barrier.arrived == barrier.threads) return fullRound(barrier);
  Fiber& fiber = *block->current;
  fiber.waiting = &barrier;
  fiber.round = barrier.round;
  while (barrier.round == fiber.round) yield();
  fiber.waiting = nullptr;
}

void leave(Barrier& barrier) {
  --barrier.threads;
  if (barrier.threads > 0 && barrier.arrived == barrier.threads) fullRound(barrier);
}

Warp& warpOf(const Fiber& fiber) { return *block->warps[static_cast<size_t>(fiber.index / kWarpThreads)]; }

void fiberMain() {
  Fiber& fiber = *block->current;
#ifdef HELS_FIBER_SANITIZER
  __sanitizer_finish_switch_fiber(nullptr, &block->schedulerStack, &block->schedulerStackBytes);
#endif
  (*block->thread)();
  fiber.done = true;
  leave(warpOf(fiber).barrier);
  leave(block->barrier);
  yield(true);
}

void resume(Fiber& fiber) {
  block->current = &fiber;
#ifdef HELS_FIBER_SANITIZER
  __sanitizer_start_switch_fiber(&block->sanitizerStack, fiber.stack.get(), kStackBytes);
#endif
  block->scheduler.switchTo(fiber.context);
#ifdef HELS_FIBER_SANITIZER
  __sanitizer_finish_switch_fiber(block->sanitizerStack, nullptr, nullptr);
#endif
}

void prepare(dim3 grid, dim3 size, uint3 index) {
  const int threads = static_cast<int>(size.x * size.y * size.z);
  block->barrier = {threads, 0, 0};
  while (block->fibers.size() < static_cast<size_t>(threads)) block->fibers.push_back(std::make_unique<Fiber>());
  const int warps = (threads + kWarpThreads - 1) / kWarpThreads;
  while (block->warps.size() < static_cast<size_t>(warps)) block->warps.push_back(std::make_unique<Warp>());
  for (int i = 0; i < warps; ++i) {
    block->warps[static_cast<size_t>(i)]->barrier = {std::min(kWarpThreads, threads - i * kWarpThreads), 0, 0};
  }
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = *block->fibers[static_cast<size_t>(i)];
    const auto thread = static_cast<unsigned>(i);
    fiber.position = {{thread % size.x, thread / size.x % size.y, thread / (size.x * size.y)}, index, size, grid};
    fiber.index = i;
    fiber.done = false;
    fiber.waiting = nullptr;
    fiber.exchanges = 0;
    fiber.context.start(fiber.stack.get(), kStackBytes, fiberMain);
  }
}

void runBlock(int threads) {
  for (int left = threads; left > 0;) {
    bool moved = false;
    for (int i = 0; i < threads; ++i) {
      Fiber& fiber = *block->fibers[static_cast<size_t>(i)];
      if (fiber.done || (fiber.waiting != nullptr && fiber.waiting->round == fiber.round)) continue;
      resume(fiber);
      moved = true;
      if (fiber.done) --left;
    }
    if (!moved) {
      std::fprintf(stderr, "emulated kernel: threads wait at different barriers\n");
      std::abort();
    }
  }
}

}  // namespace

const Position& position() { return block->current->position; }
int laneIndex() { return block->current->index % kWarpThreads; }
void* dynamicShared() { return block->shared.data(); }
void blockBarrier() { arrive(block->barrier); }
void warpBarrier() { arrive(warpOf(*block->current).barrier); }

const std::byte* exchange(const void* value, size_t sizeBytes) {
  Fiber& fiber = *block->current;
  Warp& warp = warpOf(fiber);
  std::byte* values = warp.values[fiber.exchanges++ % 2];
  std::memcpy(values + static_cast<size_t>(laneIndex()) * kExchangeBytes, value, sizeBytes);
  arrive(warp.barrier);
  return values;
}

void runKernel(dim3 grid, dim3 size, size_t sharedBytes, const std::function<void()>& thread) {
  thread_local Block own;
  block = &own;
  own.thread = &thread;
  own.shared.assign(sharedBytes, std::byte{0xA5});  // nothing may rely on zeros
  own.shared.shrink_to_fit();
  const int threads = static_cast<int>(size.x * size.y * size.z);
  blockCount += uint64_t{grid.x} * grid.y * grid.z;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        prepare(grid, size, {x, y, z});
        runBlock(threads);
      }
    }
  }
}

uint64_t blocksRun() { return blockCount; }

}  // namespace hels::emulation

int __syncthreads_or(int predicate) {
  using hels::emulation::block;
  hels::emulation::blockBarrier();
  block->predicate = 0;
  hels::emulation::blockBarrier();
  if (predicate != 0) block->predicate = 1;
  hels::emulation::blockBarrier();
  const int result = block->predicate;
  hels::emulation::blockBarrier();
  return result;
}

void __nanosleep(unsigned) {
  hels::emulation::yield();
  sched_yield();
}
