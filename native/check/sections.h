// The sections of the checker. Each runs items in the report and never throws for what it finds.
#pragma once

#include "check/limits.h"
#include "check/options.h"
#include "check/report.h"

namespace hels::check {

/// Products with fixed bits against f64, and against each other to the bit.
void checkProducts(const Options& options, Report& report);
/// Exact products at the shapes' matrices by rows, beside cuBLASLt's.
void benchProducts(const Options& options, const DeviceLimits& limits, Report& report);

/// Attention and the heads before it against their twins, and against themselves to the bit.
void checkAttention(const Options& options, Report& report);
/// Decode attention at long contexts, prefill attention.
void benchAttention(const Options& options, const DeviceLimits& limits, Report& report);

/// Small random models against the model in f64, in several splits.
void checkModels(const Options& options, Report& report);
/// Goldens of files, on the device and on the processor.
void checkGoldens(const Options& options, Report& report);
/// Whole decode and prefill steps.
void benchSteps(const Options& options, const DeviceLimits& limits, Report& report);
/// Groups by NCCL.
void checkNccl(const Options& options, Report& report);
/// KV that is parked in host memory and brought back.
void checkMoves(const Options& options, Report& report);
/// KV that other ranks hold.
void checkLent(const Options& options, Report& report);
/// Engines that take over weights and KV of others.
void checkReplan(const Options& options, Report& report);
/// Ranks on parts of one GPU.
void checkPartitions(const Options& options, const DeviceLimits& limits, Report& report);

}  // namespace hels::check
