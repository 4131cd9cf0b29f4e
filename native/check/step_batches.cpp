#include "check/step_batches.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <thread>

#include "check/shapes.h"
#include "reference/rank_group.h"

namespace hels::check {
namespace {

/// The longest rank's seconds.
double step(const std::vector<Engine*>& ranks, const StepBatch& batch) {
  double seconds = 0;
  for (const StepResult& result : stepAll(ranks, batch)) seconds = std::max(seconds, result.totalSeconds);
  return seconds;
}

SequenceStep sequence(int64_t slot, int64_t start, int64_t tokens, int64_t firstBlock) {
  SequenceStep step;
  step.slot = static_cast<int32_t>(slot);
  step.startPosition = start;
  for (int64_t token = 0; token < tokens; ++token) step.tokens.push_back(static_cast<int32_t>(1 + (slot + token) % 90));
  const int64_t blocks = (start + tokens + kBenchBlockTokens - 1) / kBenchBlockTokens;
  for (int64_t block = 0; block < blocks; ++block) step.blockTable.push_back(static_cast<int32_t>(firstBlock + block));
  step.sampling = SamplingParameters{};
  return step;
}

}  // namespace

std::vector<StepResult> stepAll(const std::vector<Engine*>& ranks, const StepBatch& batch) {
  std::vector<StepResult> results(ranks.size());
  std::vector<std::exception_ptr> failures(ranks.size());
  std::vector<std::thread> threads;
  const auto run = [&](size_t rank) {
    try {
      results[rank] = ranks[rank]->step(batch);
    } catch (...) {
      failures[rank] = std::current_exception();
    }
  };
  for (size_t rank = 1; rank < ranks.size(); ++rank) threads.emplace_back(run, rank);
  run(0);
  for (std::thread& thread : threads) thread.join();
  reference::rethrowCause(failures);
  return results;
}

int64_t contextThatFits(const ModelSpec& model, int64_t batch, int64_t context) {
  constexpr double kKvBytesMax = 36.0 * 1024 * 1024 * 1024;
  while (context > 1 && static_cast<double>(batch * context) * kvBytesPerToken(model) > kKvBytesMax) context /= 2;
  return context;
}

int64_t promptShare(int64_t batch) {
  switch (batch) {
    case 16:
      return 4;
    case 64:
      return 8;
    case 256:
      return 32;
    default:
      return batch;
  }
}

double weightBytesRead(const ModelSpec& model) {
  double bytes = 0;
  for (const MatrixShape& matrix : matricesOf(model)) {
    const auto times = static_cast<double>(matrix.name == "head" ? 1 : model.layers);
    bytes +=
        times * static_cast<double>(matrix.columns * matrix.depth) * static_cast<double>(bytesOf(model.weightType));
  }
  return bytes;
}

double kvBytesPerToken(const ModelSpec& model) {
  return static_cast<double>(model.layers * 2 * model.headGroups * model.headDim) *
         static_cast<double>(bytesOf(model.weightType));
}

double flopPerToken(const ModelSpec& model) {
  return 2 * weightBytesRead(model) / static_cast<double>(bytesOf(model.weightType)) - headFlop(model);
}

double headFlop(const ModelSpec& model) { return 2.0 * static_cast<double>(model.vocabRows * model.hiddenSize); }

double attentionFlop(const ModelSpec& model, int64_t context) {
  return 4.0 *
         static_cast<double>(model.layers * model.headGroups * model.queryHeadsPerGroup * model.headDim * context);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

std::vector<double> timeDecode(const std::vector<Engine*>& ranks, int64_t batch, int64_t context, int steps,
                               double secondsMax) {
  const int64_t blocks = (context + kBenchBlockTokens - 1) / kBenchBlockTokens;
  StepBatch first;
  for (int64_t slot = 0; slot < batch; ++slot) first.sequences.push_back(sequence(slot, context - 1, 1, slot * blocks));
  (void)step(ranks, first);
  StepBatch next = first;
  for (SequenceStep& sequence : next.sequences) {
    sequence.tokens.clear();
    sequence.takeSampled = true;
  }
  for (int warm = 0; warm < 2; ++warm) (void)step(ranks, next);
  std::vector<double> seconds;
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < steps; ++i) {
    seconds.push_back(step(ranks, next));
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
    if (passed.count() > secondsMax) break;
  }
  return seconds;
}

double timePrefill(const std::vector<Engine*>& ranks, int64_t batch, int64_t promptTokens, int64_t stepTokens,
                   int repetitions) {
  const int64_t perStep = std::max<int64_t>(1, stepTokens / promptTokens);
  const int64_t blocks = (promptTokens + kBenchBlockTokens - 1) / kBenchBlockTokens;
  std::vector<StepBatch> steps;
  for (int64_t slot = 0; slot < batch; ++slot) {
    if (slot % perStep == 0) steps.emplace_back();
    // Prompts of later steps overwrite those of earlier ones: nobody reads them again.
    steps.back().sequences.push_back(sequence(slot, 0, promptTokens, slot % perStep * blocks));
  }
  (void)step(ranks, steps.front());
  constexpr double kSecondsMax = 1.5;  // then the repetitions that there are must do
  std::vector<double> seconds;
  double total = 0;
  for (int i = 0; i < repetitions && total < kSecondsMax; ++i) {
    double sum = 0;
    for (const StepBatch& batchOfStep : steps) sum += step(ranks, batchOfStep);
    seconds.push_back(sum);
    total += sum;
  }
  return median(seconds);
}

}  // namespace hels::check
