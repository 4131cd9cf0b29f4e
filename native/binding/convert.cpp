#include "binding/convert.h"

#include <chrono>
#include <cstring>
#include <limits>

namespace hels::binding {
namespace {

constexpr int64_t kInt32 = std::numeric_limits<int32_t>::max();
constexpr double kHuge = std::numeric_limits<double>::max();

DataType readDataType(const Argument& argument) { return static_cast<DataType>(argument.word({"f32", "bf16", "f16"})); }

Range readRange(const Argument& argument) {
  return {argument.field("begin").integer(0, kInt32), argument.field("end").integer(0, kInt32)};
}

KvLoan readKvLoan(const Argument& argument) {
  KvLoan loan;
  loan.owner = static_cast<int>(argument.field("owner").integer(0, kInt32));
  loan.holder = static_cast<int>(argument.field("holder").integer(0, kInt32));
  loan.blocks = readRange(argument.field("blocks"));
  loan.headGroups = readRange(argument.field("headGroups"));
  return loan;
}

KvMove readKvMove(const Argument& argument) {
  return {static_cast<int32_t>(argument.field("from").integer(0, kInt32)),
          static_cast<int32_t>(argument.field("to").integer(0, kInt32))};
}

template <typename Item>
std::vector<Item> readList(const Argument& argument, Item (*read)(const Argument&)) {
  std::vector<Item> items;
  const uint32_t count = argument.length();
  items.reserve(count);
  for (uint32_t index = 0; index < count; ++index) items.push_back(read(argument.at(index)));
  return items;
}

SamplingParameters readSampling(const Argument& argument) {
  SamplingParameters sampling;
  sampling.temperature = static_cast<float>(argument.field("temperature").number(0, 1e6));
  sampling.topP = static_cast<float>(argument.field("topP").number(0, 1));
  sampling.topK = static_cast<int32_t>(argument.field("topK").integer(0, kInt32));
  sampling.seed = static_cast<uint64_t>(argument.field("seed").integer(0, kSafeInteger));
  sampling.logprobs = static_cast<int32_t>(argument.field("logprobs").integer(-1, kInt32));
  return sampling;
}

SequenceStep readSequenceStep(const Argument& argument) {
  SequenceStep sequence;
  sequence.slot = static_cast<int32_t>(argument.field("slot").integer(0, kInt32));
  sequence.takeSampled = argument.field("takeSampled").boolean();
  sequence.tokens = argument.field("tokens").int32Array();
  sequence.startPosition = argument.field("startPosition").integer(0, kInt32);
  sequence.blockTable = argument.field("blockTable").int32Array();
  const Argument sampling = argument.field("sampling");
  if (!sampling.isNull()) sequence.sampling = readSampling(sampling);
  sequence.bannedTokens = argument.field("bannedTokens").int32Array();
  sequence.returnLogits = argument.field("returnLogits").boolean();
  return sequence;
}

/// Fills an object field by field.
class Writer {
 public:
  explicit Writer(Napi::Env env) : env_(env), object_(Napi::Object::New(env)) {}
  Writer& number(const char* name, double value) {
    object_.Set(name, Napi::Number::New(env_, value));
    return *this;
  }
  Writer& string(const char* name, const std::string& value) {
    object_.Set(name, Napi::String::New(env_, value));
    return *this;
  }
  Writer& value(const char* name, Napi::Value value) {
    object_.Set(name, value);
    return *this;
  }
  Napi::Object object() const { return object_; }

 private:
  Napi::Env env_;
  Napi::Object object_;
};

template <typename Item, typename Convert>
Napi::Array toArray(Napi::Env env, const std::vector<Item>& items, Convert convert) {
  Napi::Array array = Napi::Array::New(env, items.size());
  for (uint32_t index = 0; index < items.size(); ++index) array.Set(index, convert(items[index]));
  return array;
}

Napi::Value toJs(Napi::Env env, const SampledToken& token) {
  const auto logprob = [env](const TokenLogprob& item) -> Napi::Value {
    return Writer(env).number("tokenId", item.tokenId).number("logprob", item.logprob).object();
  };
  return Writer(env)
      .number("slot", token.slot)
      .number("tokenId", token.tokenId)
      .number("logprob", token.logprob)
      .value("topLogprobs", toArray(env, token.topLogprobs, logprob))
      .object();
}

Napi::Value toJs(Napi::Env env, const TensorView& tensor) {
  const auto dimension = [env](int64_t size) -> Napi::Value {
    return Napi::Number::New(env, static_cast<double>(size));
  };
  return Writer(env)
      .string("name", tensor.name)
      .string("file", tensor.file)
      .string("type", tensor.readable ? dataTypeName(tensor.type) : tensor.storedType)
      .value("shape", toArray(env, tensor.shape, dimension))
      .number("sizeBytes", static_cast<double>(tensor.sizeBytes))
      .object();
}

}  // namespace

Quantization readQuantization(const Argument& argument) {
  return static_cast<Quantization>(argument.word({"none", "int8", "int4"}));
}

ModelSpec readModelSpec(const Argument& argument) {
  const auto integer = [&argument](const char* name) { return argument.field(name).integer(0, kInt32); };
  const auto number = [&argument](const char* name) { return argument.field(name).number(0, kHuge); };
  const auto boolean = [&argument](const char* name) { return argument.field(name).boolean(); };
  ModelSpec model;
  model.naming = static_cast<TensorNaming>(argument.field("naming").word({"llama", "opt"}));
  model.layers = integer("layers");
  model.hiddenSize = integer("hiddenSize");
  model.headGroups = integer("headGroups");
  model.queryHeadsPerGroup = integer("queryHeadsPerGroup");
  model.headDim = integer("headDim");
  model.ffnColumns = integer("ffnColumns");
  model.ffnGranule = integer("ffnGranule");
  model.gatedMlp = boolean("gatedMlp");
  model.vocabRows = integer("vocabRows");
  model.embeddingSize = integer("embeddingSize");
  model.maxPositions = integer("maxPositions");
  model.normalization = static_cast<Normalization>(argument.field("normalization").word({"rms", "layer"}));
  model.normEpsilon = number("normEpsilon");
  model.normBeforeBlock = boolean("normBeforeBlock");
  model.finalNorm = boolean("finalNorm");
  model.activation = static_cast<Activation>(argument.field("activation").word({"silu", "relu"}));
  model.position = static_cast<PositionEncoding>(argument.field("position").word({"rope", "learned"}));
  model.learnedPositionOffset = integer("learnedPositionOffset");
  model.ropeTheta = number("ropeTheta");
  model.ropeScaling = static_cast<RopeScaling>(argument.field("ropeScaling").word({"none", "linear", "llama3"}));
  model.ropeFactor = number("ropeFactor");
  model.ropeLowFrequencyFactor = number("ropeLowFrequencyFactor");
  model.ropeHighFrequencyFactor = number("ropeHighFrequencyFactor");
  model.ropeOriginalMaxPositions = integer("ropeOriginalMaxPositions");
  model.qkvBias = boolean("qkvBias");
  model.attentionOutputBias = boolean("attentionOutputBias");
  model.mlpBias = boolean("mlpBias");
  model.queryKeyNorm = boolean("queryKeyNorm");
  const Argument windows = argument.field("slidingWindows");
  for (uint32_t layer = 0; layer < windows.length(); ++layer) {
    model.slidingWindows.push_back(windows.at(layer).integer(0, kInt32));
  }
  model.tiedEmbeddings = boolean("tiedEmbeddings");
  model.weightType = readDataType(argument.field("weightType"));
  model.quantization = readQuantization(argument.field("quantization"));
  return model;
}

ShardSpec readShardSpec(const Argument& argument) {
  ShardSpec shard;
  shard.rank = static_cast<int>(argument.field("rank").integer(0, kInt32));
  shard.ranks = static_cast<int>(argument.field("ranks").integer(1, kInt32));
  shard.headGroups = readRange(argument.field("headGroups"));
  shard.ffnColumns = readRange(argument.field("ffnColumns"));
  shard.vocabRows = readRange(argument.field("vocabRows"));
  return shard;
}

EngineOptions readEngineOptions(const Argument& argument) {
  EngineOptions options;
  options.device = argument.field("device").string();
  options.multiprocessors = static_cast<int>(argument.field("multiprocessors").integer(0, 1024));
  options.threads = static_cast<int>(argument.field("threads").integer(1, 1024));
  options.speed = argument.field("speed").number(0.01, 1);
  options.memoryBytes = static_cast<uint64_t>(argument.field("memoryBytes").integer(0, kSafeInteger));
  options.numerics = static_cast<Numerics>(argument.field("numerics").word({"exact", "fast"}));
  options.kvBlockTokens = argument.field("kvBlockTokens").integer(1, 4096);
  options.kvBlocks = argument.field("kvBlocks").integer(0, kInt32);
  options.kvParkedBlocks = argument.field("kvParkedBlocks").integer(0, kInt32);
  const Argument deviceBlocks = argument.field("kvDeviceBlocks");
  if (!deviceBlocks.isNull()) options.kvDeviceBlocks = deviceBlocks.integer(0, kInt32);
  options.kvLoans = readList(argument.field("kvLoans"), readKvLoan);
  options.stepTokensMax = argument.field("stepTokensMax").integer(1, 1 << 20);
  options.sequencesMax = argument.field("sequencesMax").integer(1, 1 << 20);
  const Argument corruption = argument.field("corruption");
  if (!corruption.isNull()) {
    options.corruption = Corruption{corruption.field("tensor").string(),
                                    static_cast<uint64_t>(corruption.field("byte").integer(0, kSafeInteger))};
  }
  return options;
}

StepBatch readStepBatch(const Argument& argument) {
  StepBatch batch;
  batch.sequences = readList(argument.field("sequences"), readSequenceStep);
  batch.kvMoves = readList(argument.field("kvMoves"), readKvMove);
  batch.collectiveDeadline = std::chrono::milliseconds(argument.field("collectiveDeadlineMs").integer(1, kInt32));
  return batch;
}

KvMigration readKvMigration(const Argument& argument) {
  KvMigration migration;
  migration.previousHeadGroups = readList(argument.field("previousHeadGroups"), readRange);
  migration.headGroups = readList(argument.field("headGroups"), readRange);
  migration.previousLoans = readList(argument.field("previousLoans"), readKvLoan);
  migration.blocks = readList(argument.field("blocks"), readRange);
  migration.parked = readList(argument.field("parked"), readKvMove);
  migration.deadline = std::chrono::milliseconds(argument.field("deadlineMs").integer(1, 3'600'000));
  return migration;
}

ProfilePoint readProfilePoint(const Argument& argument) {
  ProfilePoint point;
  point.prefill = argument.field("prefill").boolean();
  point.tokens = argument.field("tokens").integer(1, 1 << 20);
  point.contextTokens = argument.field("contextTokens").integer(1, int64_t{1} << 40);
  point.chunkTokens = argument.field("chunkTokens").integer(0, 1 << 20);
  point.chunkContextTokens = argument.field("chunkContextTokens").integer(0, int64_t{1} << 40);
  point.headGroups = argument.field("headGroups").integer(0, kInt32);
  point.ffnColumns = argument.field("ffnColumns").integer(0, kInt32);
  point.vocabRows = argument.field("vocabRows").integer(0, kInt32);
  return point;
}

std::vector<std::string> readStrings(const Argument& argument) {
  std::vector<std::string> strings;
  for (uint32_t index = 0; index < argument.length(); ++index) strings.push_back(argument.at(index).string());
  return strings;
}

Napi::Value toJs(Napi::Env env, const StepResult& result) {
  Napi::Float32Array logits = Napi::Float32Array::New(env, result.logits.size());
  if (!result.logits.empty()) std::memcpy(logits.Data(), result.logits.data(), result.logits.size() * sizeof(float));
  const auto token = [env](const SampledToken& item) { return toJs(env, item); };
  return Writer(env)
      .value("sampled", toArray(env, result.sampled, token))
      .value("logits", logits)
      .number("computeSeconds", result.computeSeconds)
      .number("collectiveSeconds", result.collectiveSeconds)
      .number("moveSeconds", result.moveSeconds)
      .number("remoteSeconds", result.remoteSeconds)
      .number("totalSeconds", result.totalSeconds)
      .object();
}

Napi::Value toJs(Napi::Env env, const KvMigrationResult& result) {
  return Writer(env)
      .number("seconds", result.seconds)
      .number("bytesReceived", static_cast<double>(result.bytesReceived))
      .object();
}

Napi::Value toJs(Napi::Env env, const EngineReport& report) {
  return Writer(env)
      .number("weightBytesLoaded", static_cast<double>(report.weightBytesLoaded))
      .number("weightBytesReplicated", static_cast<double>(report.weightBytesReplicated))
      .number("weightBytesAdopted", static_cast<double>(report.weightBytesAdopted))
      .number("weightBytesResident", static_cast<double>(report.weightBytesResident))
      .number("kvBytes", static_cast<double>(report.kvBytes))
      .number("kvHostBytes", static_cast<double>(report.kvHostBytes))
      .number("kvLoanBytes", static_cast<double>(report.kvLoanBytes))
      .number("scratchBytes", static_cast<double>(report.scratchBytes))
      .value("kvKept", Napi::Boolean::New(env, report.kvKept))
      .value("kvLoansKept", Napi::Boolean::New(env, report.kvLoansKept))
      .number("residentBytes", static_cast<double>(report.residentBytes))
      .number("allReduceCount", static_cast<double>(report.allReduceCount))
      .number("allReduceBytes", static_cast<double>(report.allReduceBytes))
      .number("exchangeCount", static_cast<double>(report.exchangeCount))
      .number("exchangeBytes", static_cast<double>(report.exchangeBytes))
      .number("moveSeconds", report.moveSeconds)
      .number("remoteSeconds", report.remoteSeconds)
      .value("corrupted", Napi::Boolean::New(env, report.corrupted))
      .string("fingerprint", report.fingerprint)
      .string("gemmImplementation", report.gemmImplementation)
      .string("transport", report.transport)
      .object();
}

Napi::Value toJs(Napi::Env env, const std::vector<TensorView>& tensors) {
  return toArray(env, tensors, [env](const TensorView& tensor) { return toJs(env, tensor); });
}

}  // namespace hels::binding
