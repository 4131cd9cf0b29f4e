#include "model/weight_source.h"

#include <filesystem>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/mapped_file.h"
#include "base/text.h"
#include "model/bounded_json.h"
#include "model/safetensors_header.h"

namespace hels {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr size_t kIndexBytesMax = 100'000'000;

std::optional<DataType> readableType(const std::string& storedType) {
  if (storedType == "F32") return DataType::kF32;
  if (storedType == "BF16") return DataType::kBf16;
  if (storedType == "F16") return DataType::kF16;
  return std::nullopt;
}

class MappedWeightSource final : public WeightSource {
 public:
  explicit MappedWeightSource(fs::path directory) : directory_(std::move(directory)) {}

  void openSingle() {
    for (TensorView& view : mapFile(kSingleFile)) add(std::move(view));
  }

  /// The index names the file of every tensor; a file's other tensors are not part of the model.
  void openSharded() {
    const std::string indexPath = (directory_ / kIndexFile).string();
    const std::map<std::string, std::string> fileOfTensor = readIndex(indexPath);
    std::map<std::string, std::map<std::string, TensorView>> files;
    for (const auto& [tensor, file] : fileOfTensor) {
      const auto [entry, isNew] = files.try_emplace(file);
      if (isNew) {
        for (TensorView& view : mapFile(file)) entry->second.emplace(view.name, std::move(view));
      }
      const auto found = entry->second.find(tensor);
      require(found != entry->second.end(), ErrorCode::kModelInvalid,
              std::string(indexPath).append(": tensor ").append(nameText(tensor)).append(" is mapped to ") + file +
                  ", which does not have it");
      add(std::move(found->second));
    }
  }

  const TensorView* find(const std::string& name) const override {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : &found->second;
  }

  const TensorView& get(const std::string& name, const std::vector<int64_t>& shape) const override {
    const TensorView& tensor = shaped(name, shape);
    require(tensor.readable, ErrorCode::kModelInvalid,
            where(tensor) + " has type " + nameText(tensor.storedType) + "; F32, BF16 and F16 can be read");
    return tensor;
  }

  const TensorView& getStored(const std::string& name, const std::vector<int64_t>& shape,
                              const std::string& storedType) const override {
    const TensorView& tensor = shaped(name, shape);
    require(tensor.storedType == storedType, ErrorCode::kModelInvalid,
            where(tensor) + " has type " + nameText(tensor.storedType) + "; it must be " + storedType);
    return tensor;
  }

  const std::map<std::string, TensorView>& tensors() const override { return tensors_; }

 private:
  static std::string where(const TensorView& tensor) { return tensor.file + ": tensor " + nameText(tensor.name); }

  const TensorView& shaped(const std::string& name, const std::vector<int64_t>& shape) const {
    const TensorView* tensor = find(name);
    require(tensor != nullptr, ErrorCode::kModelInvalid,
            directory_.string() + ": tensor " + nameText(name) + " is missing");
    require(
        tensor->shape == shape, ErrorCode::kModelInvalid,
        where(*tensor) + " has shape " + shapeText(tensor->shape) + "; the model's config demands " + shapeText(shape));
    return *tensor;
  }

  static std::map<std::string, std::string> readIndex(const std::string& path) {
    const MappedFile index(path);
    require(index.bytes().size() <= kIndexBytesMax, ErrorCode::kModelInvalid,
            path + ": " + std::to_string(index.bytes().size()) + " bytes; an index has at most " +
                std::to_string(kIndexBytesMax));
    const nlohmann::json json = parseBoundedJson(index.bytes(), path, "index");
    const auto weightMap = json.find("weight_map");
    require(json.is_object() && weightMap != json.end() && weightMap->is_object(), ErrorCode::kModelInvalid,
            path + ": the index has no weight_map object");
    std::map<std::string, std::string> files;
    for (const auto& [tensor, file] : weightMap->items()) {
      require(file.is_string(), ErrorCode::kModelInvalid,
              path + ": weight_map[" + nameText(tensor) + "] is not text; it must be a file name");
      checkFileName(path, tensor, file.get_ref<const std::string&>());
      files.emplace(tensor, file.get<std::string>());
    }
    return files;
  }

  /// An index must not reach outside of its directory.
  static void checkFileName(const std::string& path, const std::string& tensor, const std::string& file) {
    const bool plain =
        !file.empty() && file != "." && file != ".." && file.find_first_of(std::string_view("/\\\0", 3)) == file.npos;
    require(plain, ErrorCode::kModelInvalid,
            path + ": weight_map[" + nameText(tensor) + "] is " + nameText(file) +
                "; it must be the plain name of a file in the same directory");
  }

  std::vector<TensorView> mapFile(const std::string& name) {
    const std::string path = (directory_ / name).string();
    const MappedFile& file = *files_.emplace_back(std::make_unique<MappedFile>(path));
    std::vector<TensorView> views;
    for (StoredTensor& stored : parseSafetensorsHeader(file.bytes(), path)) {
      const std::optional<DataType> type = readableType(stored.storedType);
      views.push_back({.name = std::move(stored.name),
                       .file = path,
                       .storedType = std::move(stored.storedType),
                       .readable = type.has_value(),
                       .type = type.value_or(DataType::kF32),
                       .shape = std::move(stored.shape),
                       .data = file.bytes().data() + stored.beginByte,
                       .sizeBytes = stored.endByte - stored.beginByte});
    }
    return views;
  }

  void add(TensorView view) {
    std::string name = view.name;
    tensors_.emplace(std::move(name), std::move(view));
  }

  fs::path directory_;
  std::vector<std::unique_ptr<MappedFile>> files_;
  std::map<std::string, TensorView> tensors_;
};

}  // namespace

std::shared_ptr<WeightSource> WeightSource::open(const std::string& directory) {
  std::error_code ignored;
  require(fs::is_directory(directory, ignored), ErrorCode::kModelInvalid, directory + ": not a directory");
  auto source = std::make_shared<MappedWeightSource>(directory);
  if (fs::exists(fs::path(directory) / kSingleFile, ignored)) {
    source->openSingle();
  } else {
    require(fs::exists(fs::path(directory) / kIndexFile, ignored), ErrorCode::kModelInvalid,
            directory + ": neither " + kSingleFile + " nor " + kIndexFile + " is there");
    source->openSharded();
  }
  return source;
}

}  // namespace hels
