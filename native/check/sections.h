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

}  // namespace hels::check
