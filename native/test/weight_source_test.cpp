#include "model/weight_source.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "base/error.h"
#include "model/weight_block.h"
#include "safetensors_file.h"

namespace hels {
namespace {

using test::Bytes;
using test::safetensors;
using test::TemporaryDirectory;

std::string f32Header(const std::string& name, int rows, int columns) {
  return R"({")" + name + R"(":{"dtype":"F32","shape":[)" + std::to_string(rows) + "," + std::to_string(columns) +
         R"(],"data_offsets":[0,)" + std::to_string(rows * columns * 4) + "]}}";
}

std::string refusal(const std::function<void()>& action, ErrorCode code = ErrorCode::kModelInvalid) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  return "accepted";
}

std::string openRefusal(const TemporaryDirectory& directory) {
  return refusal([&] { WeightSource::open(directory.path()); });
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// w is 3 x 4 with the values 0, 1 ... 11.
std::shared_ptr<WeightSource> smallSource(const TemporaryDirectory& directory) {
  std::vector<float> values(12);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  directory.write("model.safetensors", safetensors(f32Header("w", 3, 4), values));
  return WeightSource::open(directory.path());
}

TEST(WeightSource, ReadsASingleFile) {
  const TemporaryDirectory directory;
  const auto source = smallSource(directory);
  const TensorView& view = source->get("w", {3, 4});
  float last = 0;
  std::memcpy(&last, view.data + 44, 4);
  EXPECT_EQ(last, 11.0F);
  EXPECT_EQ(view.sizeBytes, 48U);
  EXPECT_TRUE(view.readable);
  EXPECT_EQ(source->find("v"), nullptr);
  EXPECT_EQ(source->tensors().size(), 1U);
}

TEST(WeightSource, NamesWhatIsWrong) {
  const TemporaryDirectory directory;
  const auto source = smallSource(directory);
  EXPECT_TRUE(contains(refusal([&] { source->get("v", {1}); }), "tensor 'v' is missing"));
  const std::string shape = refusal([&] { source->get("w", {4, 3}); });
  EXPECT_TRUE(contains(shape, "model.safetensors: tensor 'w' has shape [3, 4]; the model's config demands [4, 3]"))
      << shape;
}

TEST(WeightSource, ListsButDoesNotReadOtherTypes) {
  const TemporaryDirectory directory;
  directory.write("model.safetensors", safetensors(R"({"w":{"dtype":"I64","shape":[2],"data_offsets":[0,16]}})", 16));
  const auto source = WeightSource::open(directory.path());
  ASSERT_NE(source->find("w"), nullptr);
  EXPECT_EQ(source->find("w")->storedType, "I64");
  EXPECT_FALSE(source->find("w")->readable);
  EXPECT_TRUE(contains(refusal([&] { source->get("w", {2}); }), "has type 'I64'; F32, BF16 and F16 can be read"));
}

TEST(WeightSource, RefusesMissingFiles) {
  EXPECT_TRUE(contains(refusal([] { WeightSource::open("/no/such/place"); }), "/no/such/place: not a directory"));
  const TemporaryDirectory directory;
  EXPECT_TRUE(contains(openRefusal(directory), "neither model.safetensors nor model.safetensors.index.json"));
  std::filesystem::create_directory(directory.path() + "/model.safetensors");
  EXPECT_TRUE(contains(openRefusal(directory), "model.safetensors: not a regular file"));
}

TEST(WeightSource, RefusesAnEmptyFile) {
  const TemporaryDirectory directory;
  directory.write("model.safetensors", Bytes{});
  EXPECT_TRUE(contains(openRefusal(directory), "model.safetensors: truncated: 0 bytes"));
}

TEST(WeightSource, ReadsShardedFiles) {
  const TemporaryDirectory directory;
  directory.write("one.safetensors", safetensors(f32Header("a", 1, 1), std::vector<float>{1}));
  directory.write("two.safetensors", safetensors(f32Header("b", 1, 2), std::vector<float>{2, 3}));
  directory.write("model.safetensors.index.json",
                  std::string(R"({"metadata":{},"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})"));
  const auto source = WeightSource::open(directory.path());
  EXPECT_TRUE(contains(source->get("a", {1, 1}).file, "one.safetensors"));
  EXPECT_TRUE(contains(source->get("b", {1, 2}).file, "two.safetensors"));
}

TEST(WeightSource, RefusesABadIndex) {
  const TemporaryDirectory directory;
  directory.write("one.safetensors", safetensors(f32Header("a", 1, 1), std::vector<float>{1}));
  const auto with = [&](const std::string& index) {
    directory.write("model.safetensors.index.json", index);
    return openRefusal(directory);
  };
  EXPECT_TRUE(contains(with("{"), "the index is not valid JSON"));
  EXPECT_TRUE(contains(with("[]"), "no weight_map"));
  EXPECT_TRUE(contains(with(R"({"weight_map":[]})"), "no weight_map"));
  EXPECT_TRUE(contains(with(R"({"weight_map":{"a":1}})"), "weight_map['a'] is not text"));
  EXPECT_TRUE(contains(with(R"({"weight_map":{"a":"gone.safetensors"}})"), "gone.safetensors: No such file"));
  EXPECT_TRUE(contains(with(R"({"weight_map":{"x":"one.safetensors"}})"),
                       "tensor 'x' is mapped to one.safetensors, which does not have it"));
  EXPECT_TRUE(contains(with(R"({"weight_map":{"a":"one.safetensors","a":"one.safetensors"}})"), "'a' twice"));
  for (const char* name :
       {"../one.safetensors", "/etc/passwd", "sub/one.safetensors", "..", ".", "", "one\\\\two", "one\\u0000two"}) {
    EXPECT_TRUE(contains(with(R"({"weight_map":{"a":")" + std::string(name) + "\"}}"), "plain name of a file")) << name;
  }
}

TEST(ReadBlock, ReadsRowsAndColumns) {
  const TemporaryDirectory directory;
  const auto source = smallSource(directory);
  const auto read = [&](Range rows, Range columns) {
    std::vector<float> values(12);
    readBlock(source->get("w", {3, 4}), rows, columns, DataType::kF32, reinterpret_cast<std::byte*>(values.data()));
    values.resize(static_cast<size_t>(rows.size() * columns.size()));
    return values;
  };
  EXPECT_EQ(read({1, 3}, {0, 4}), (std::vector<float>{4, 5, 6, 7, 8, 9, 10, 11}));
  EXPECT_EQ(read({0, 3}, {1, 3}), (std::vector<float>{1, 2, 5, 6, 9, 10}));
  EXPECT_EQ(read({2, 3}, {3, 4}), (std::vector<float>{11}));
  EXPECT_EQ(read({1, 1}, {0, 4}), (std::vector<float>{}));
  EXPECT_EQ(read({0, 3}, {4, 4}), (std::vector<float>{}));
  for (const auto& [rows, columns] :
       {std::pair<Range, Range>{{0, 4}, {0, 4}}, {{0, 3}, {0, 5}}, {{2, 1}, {0, 4}}, {{-1, 1}, {0, 4}}}) {
    EXPECT_TRUE(
        contains(refusal([&, &rows = rows, &columns = columns] { read(rows, columns); }, ErrorCode::kShapeInvalid),
                 "must lie within"));
  }
}

TEST(ReadBlock, ConvertsEveryPairOfTypes) {
  const std::vector<float> values{0.0F, -0.0F, 1.0F, -2.5F, 65504.0F, 0x1p-14F, 0x1p-24F, 3.0F};
  for (const DataType from : {DataType::kF32, DataType::kBf16, DataType::kF16}) {
    for (const DataType to : {DataType::kF32, DataType::kBf16, DataType::kF16}) {
      Bytes source(values.size() * bytesOf(from) + 1);
      Bytes target(values.size() * bytesOf(to) + 1);
      std::vector<float> widened(values.size());
      // Offset by one byte: nothing in a file need be aligned.
      convertElements(DataType::kF32, reinterpret_cast<const std::byte*>(values.data()), from, source.data() + 1,
                      values.size());
      convertElements(from, source.data() + 1, to, target.data() + 1, values.size());
      convertElements(to, target.data() + 1, DataType::kF32, reinterpret_cast<std::byte*>(widened.data()),
                      values.size());
      for (size_t i = 0; i < values.size(); ++i) {
        const bool inBf16 = from == DataType::kBf16 || to == DataType::kBf16;
        float expected = inBf16 ? bf16ToF32(f32ToBf16(values[i])) : values[i];
        if (to == DataType::kF16)
          expected = f16ToF32(f32ToF16(expected));  // 65504 rounds up in bf16, out of f16's range
        EXPECT_EQ(std::bit_cast<uint32_t>(widened[i]), std::bit_cast<uint32_t>(expected))
            << dataTypeName(from) << dataTypeName(to) << i;
      }
    }
  }
}

class CorruptedReader : public testing::Test {
 protected:
  std::vector<float> read(uint64_t byte, Range rows, Range columns, const std::string& tensor = "w") {
    WeightReader reader(source_, Corruption{.tensor = tensor, .byte = byte});
    std::vector<float> values(static_cast<size_t>(rows.size() * columns.size()));
    reader.readMatrix("w", {3, 4}, rows, columns, DataType::kF32, reinterpret_cast<std::byte*>(values.data()),
                      Ownership::kSliced);
    return values;
  }
  static float flipped(float value, int byte) {
    return std::bit_cast<float>(std::bit_cast<uint32_t>(value) ^ (0xFFU << (8 * byte)));
  }

  TemporaryDirectory directory_;
  std::shared_ptr<WeightSource> source_ = smallSource(directory_);
};

TEST_F(CorruptedReader, FlipsOneByteOfWhatItReads) {
  // Element 6 (row 1, column 2) is bytes 24 to 27.
  for (int byte = 0; byte < 4; ++byte) {
    const auto at = static_cast<uint64_t>(24 + byte);
    EXPECT_EQ(read(at, {1, 2}, {0, 4}), (std::vector<float>{4, 5, flipped(6, byte), 7}));
    EXPECT_EQ(read(at, {0, 3}, {2, 3}), (std::vector<float>{2, flipped(6, byte), 10}));
  }
}

TEST_F(CorruptedReader, LeavesEverythingElseAlone) {
  EXPECT_EQ(read(24, {0, 1}, {0, 4}), (std::vector<float>{0, 1, 2, 3}));
  EXPECT_EQ(read(24, {2, 3}, {0, 4}), (std::vector<float>{8, 9, 10, 11}));
  EXPECT_EQ(read(24, {1, 2}, {0, 2}), (std::vector<float>{4, 5}));
  EXPECT_EQ(read(24, {1, 2}, {3, 4}), (std::vector<float>{7}));
  EXPECT_EQ(read(24, {1, 2}, {2, 3}, "other"), (std::vector<float>{6}));
  EXPECT_EQ(read(1'000'000, {1, 2}, {2, 3}), (std::vector<float>{6}));
  float untouched = 0;
  std::memcpy(&untouched, source_->get("w", {3, 4}).data + 24, 4);
  EXPECT_EQ(untouched, 6.0F);
}

TEST(WeightReader, FlipsBeforeItConverts) {
  const TemporaryDirectory directory;
  directory.write("model.safetensors", safetensors(R"({"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}})",
                                                   std::vector<uint16_t>{0x3F80, 0x4000}));
  WeightReader reader(WeightSource::open(directory.path()), Corruption{.tensor = "w", .byte = 3});
  std::vector<float> values(2);
  reader.readVector("w", 2, {0, 2}, DataType::kF32, reinterpret_cast<std::byte*>(values.data()),
                    Ownership::kReplicated);
  EXPECT_EQ(values, (std::vector<float>{1.0F, bf16ToF32(0x4000 ^ 0xFF00)}));
}

TEST(WeightReader, CountsWhatItReads) {
  const TemporaryDirectory directory;
  WeightReader reader(smallSource(directory));
  Bytes target(48);
  reader.readMatrix("w", {3, 4}, {0, 2}, {0, 4}, DataType::kBf16, target.data(), Ownership::kSliced);
  EXPECT_EQ(reader.accounting().bytesLoaded, 32U);  // bytes of the file, whatever they become
  EXPECT_EQ(reader.accounting().bytesReplicated, 0U);
  reader.readMatrix("w", {3, 4}, {0, 3}, {3, 4}, DataType::kF32, target.data(), Ownership::kReplicated);
  EXPECT_EQ(reader.accounting().bytesLoaded, 44U);
  EXPECT_EQ(reader.accounting().bytesReplicated, 12U);
}

}  // namespace
}  // namespace hels
