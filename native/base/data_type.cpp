#include "base/data_type.h"

#include "base/error.h"

namespace hels {

const char* dataTypeName(DataType type) {
  switch (type) {
    case DataType::kF32:
      return "f32";
    case DataType::kBf16:
      return "bf16";
    case DataType::kF16:
      return "f16";
  }
  throw Error(ErrorCode::kInternal, "data type " + std::to_string(static_cast<int>(type)) + " has no name");
}

DataType dataTypeFromName(const std::string& name) {
  for (const DataType type : {DataType::kF32, DataType::kBf16, DataType::kF16}) {
    if (name == dataTypeName(type)) return type;
  }
  throw Error(ErrorCode::kShapeInvalid, "data type is '" + name + "'; it must be f32, bf16 or f16");
}

}  // namespace hels
