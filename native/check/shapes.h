// Shapes of models that are measured with random weights.
#pragma once

#include <string>
#include <vector>

#include "model/model_spec.h"

namespace hels::check {

/// "8b": Llama-3-8B; "13b": Llama-2-13B; "tiny": for the emulation. In bf16. Throws kShapeInvalid for another name.
ModelSpec shapeNamed(const std::string& name);

/// One weight matrix of a layer, or the head.
struct MatrixShape {
  std::string name;
  int64_t columns = 0;
  int64_t depth = 0;
  int64_t granuleDepth = 0;  // of products that are summed in fixed point; 0: in f32
};

/// The four matrices of a layer (q, k and v as one, gate and up as one), then the head.
std::vector<MatrixShape> matricesOf(const ModelSpec& model);

}  // namespace hels::check
