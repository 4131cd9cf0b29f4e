// Element types of weights and KV, and their exact widening to f32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace hels {

enum class DataType : uint8_t { kF32, kBf16, kF16 };

inline size_t bytesOf(DataType type) { return type == DataType::kF32 ? 4 : 2; }
/// "f32", "bf16", "f16": the words of config files, plans and JSON.
const char* dataTypeName(DataType type);
/// Parses the same words; throws kShapeInvalid otherwise.
DataType dataTypeFromName(const std::string& name);

float bf16ToF32(uint16_t bits);
uint16_t f32ToBf16(float value);  // round to nearest even, NaN stays NaN
float f16ToF32(uint16_t bits);
uint16_t f32ToF16(float value);  // round to nearest even, overflow gives infinity

}  // namespace hels
