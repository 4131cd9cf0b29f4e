// Whole models in this process, split over ranks: what the sections that check models share.
#pragma once

#include <string>
#include <vector>

#include "engine/engine.h"
#include "reference/rank_group.h"

namespace hels::check {

struct Split {
  std::string name;  // "2 ranks"
  std::vector<reference::RankShare> shares;
};

/// One rank; two with unequal heads, FFN columns and vocabulary rows; three, one of which has no heads and one no
/// vocabulary rows.
std::vector<Split> splitsOf(const ModelSpec& model);

/// For models of a few hundred positions; `device` "cpu" or "cuda:N".
EngineOptions smallOptions(const std::string& device);

/// A group whose ranks sum on the device that they share, instead of by way of the host.
void sumOnDevice(reference::RankGroup& group);

/// FNV-1a of the values' bytes, in hexadecimal.
std::string hashOf(const std::vector<float>& values);

}  // namespace hels::check
