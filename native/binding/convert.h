// The engine's value types from and to JS objects. Field names are those of the C++ structs; worker/binding/native.ts
// declares them for TypeScript. Enumerations cross as words, absent values as null.
#pragma once

#include <napi.h>

#include <string>
#include <vector>

#include "binding/argument.h"
#include "engine/engine.h"
#include "model/model_spec.h"
#include "model/weight_source.h"
#include "shard/shard_spec.h"

namespace hels::binding {

Quantization readQuantization(const Argument& argument);
ModelSpec readModelSpec(const Argument& argument);
ShardSpec readShardSpec(const Argument& argument);
EngineOptions readEngineOptions(const Argument& argument);
StepBatch readStepBatch(const Argument& argument);
KvMigration readKvMigration(const Argument& argument);
ProfilePoint readProfilePoint(const Argument& argument);
std::vector<std::string> readStrings(const Argument& argument);

Napi::Value toJs(Napi::Env env, const StepResult& result);
Napi::Value toJs(Napi::Env env, const KvMigrationResult& result);
Napi::Value toJs(Napi::Env env, const EngineReport& report);
/// What inspectModel tells of a tensor: all but its data.
Napi::Value toJs(Napi::Env env, const std::vector<TensorView>& tensors);

}  // namespace hels::binding
