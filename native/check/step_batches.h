// Steps of equal sequences for benchmarks of whole engines, what they cost at least, and how long they take.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/engine.h"

namespace hels::check {

inline constexpr int64_t kBenchBlockTokens = 16;

/// `context` halved until the KV of the batch takes at most 36 GiB, so that every batch fits into 80 GB. As
/// torch_peer.py has it.
int64_t contextThatFits(const ModelSpec& model, int64_t batch, int64_t context);
/// A single prompt's tokens over those of a prompt in such a batch. As torch_peer.py has it.
int64_t promptShare(int64_t batch);

/// Bytes of the layers and the head.
double weightBytesRead(const ModelSpec& model);
double kvBytesPerToken(const ModelSpec& model);
/// Of the layers' products.
double flopPerToken(const ModelSpec& model);
double headFlop(const ModelSpec& model);
/// Of one token that sees `context` positions, all layers.
double attentionFlop(const ModelSpec& model, int64_t context);

/// One step of all ranks of a group, on a thread each. Throws what the first failing rank threw.
std::vector<StepResult> stepAll(const std::vector<Engine*>& ranks, const StepBatch& batch);

double median(std::vector<double> values);

/// Seconds of each decode step of `batch` sequences whose last token sees `context` positions; the KV before is what
/// the engines hold. Steps that record graphs are not among them. All engines (the ranks of one group) step together;
/// a step is as long as the longest. At least one step, at most `steps`, for about `secondsMax`.
std::vector<double> timeDecode(const std::vector<Engine*>& ranks, int64_t batch, int64_t context, int steps,
                               double secondsMax);
/// Median seconds of the prefill of `batch` prompts, in steps of at most `stepTokens`.
double timePrefill(const std::vector<Engine*>& ranks, int64_t batch, int64_t promptTokens, int64_t stepTokens,
                   int repetitions);

}  // namespace hels::check
