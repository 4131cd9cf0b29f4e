#include "model/safetensors_header.h"

#include <gtest/gtest.h>

#include <random>

#include "base/error.h"
#include "safetensors_file.h"

namespace hels {
namespace {

using test::Bytes;
using test::safetensors;

const std::string kGood =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
    R"("b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},"c":{"dtype":"I64","shape":[],"data_offsets":[32,40]}} )";

std::string entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"a":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
}

/// The message of the refusal; "accepted" when there is none.
std::string refusal(const Bytes& bytes) {
  try {
    parseSafetensorsHeader(bytes, "weights");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kModelInvalid);
    return error.what();
  }
  return "accepted";
}

TEST(SafetensorsHeader, ReadsAGoodFile) {
  const std::vector<StoredTensor> tensors = parseSafetensorsHeader(safetensors(kGood, 40), "weights");
  ASSERT_EQ(tensors.size(), 3U);
  EXPECT_EQ(tensors[0].name, "a");
  EXPECT_EQ(tensors[0].storedType, "F32");
  EXPECT_EQ(tensors[0].shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(tensors[0].beginByte, 8 + kGood.size());
  EXPECT_EQ(tensors[0].endByte, 8 + kGood.size() + 24);
  EXPECT_EQ(tensors[2].shape, std::vector<int64_t>{});
}

TEST(SafetensorsHeader, RefusesBadLengths) {
  EXPECT_NE(refusal({}).find("truncated: 0 bytes"), std::string::npos);
  EXPECT_NE(refusal(test::littleEndian(uint64_t{1} << 63)).find("header length is 9223372036854775808"),
            std::string::npos);
  EXPECT_NE(refusal(test::littleEndian(~uint64_t{0})).find("header length is 18446744073709551615"), std::string::npos);
  EXPECT_NE(refusal(test::littleEndian(100)).find("header length is 100 bytes, but only 0 follow"), std::string::npos);
}

TEST(SafetensorsHeader, RefusesATruncatedFile) {
  const Bytes whole = safetensors(kGood, 40);
  for (size_t length = 0; length < whole.size(); ++length) {
    EXPECT_NE(refusal(Bytes(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(length))), "accepted") << length;
  }
  EXPECT_NE(refusal(safetensors(kGood, 39)).find("tensor 'c' has data_offsets [32, 40)"), std::string::npos);
}

TEST(SafetensorsHeader, RefusesBadJson) {
  EXPECT_NE(refusal(safetensors("", 0)).find("not valid JSON"), std::string::npos);
  EXPECT_NE(refusal(safetensors("{\"a\":", 0)).find("not valid JSON"), std::string::npos);
  EXPECT_NE(refusal(safetensors("{}{}", 0)).find("not valid JSON"), std::string::npos);
  EXPECT_NE(refusal(safetensors("{\"\xff\":{}}", 0)).find("not valid JSON"), std::string::npos);
  EXPECT_NE(refusal(safetensors("[]", 0)).find("must be a JSON object"), std::string::npos);
  EXPECT_NE(refusal(safetensors(std::string(1'000'000, '['), 0)).find("nested deeper"), std::string::npos);
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += "{\"a\":";
  EXPECT_NE(refusal(safetensors(deep, 0)).find("nested deeper"), std::string::npos);
}

TEST(SafetensorsHeader, RefusesNamesGivenTwice) {
  const std::string tensor = R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  EXPECT_NE(refusal(safetensors("{" + tensor + "," + tensor + "}", 1)).find("'a' twice"), std::string::npos);
  const std::string offsets = R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"data_offsets":[1,2]}})";
  EXPECT_NE(refusal(safetensors(offsets, 2)).find("'data_offsets' twice"), std::string::npos);
  // The same name in two objects is not a repetition.
  EXPECT_EQ(
      refusal(safetensors(
          R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"dtype":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
          2)),
      "accepted");
}

TEST(SafetensorsHeader, RefusesBadEntries) {
  EXPECT_NE(refusal(safetensors(R"({"a":7})", 0)).find("tensor 'a' is described by 7"), std::string::npos);
  EXPECT_NE(refusal(safetensors(R"({"a":{}})", 0)).find("tensor 'a' has no dtype"), std::string::npos);
  EXPECT_NE(refusal(safetensors(R"({"a":{"dtype":3}})", 0)).find("has dtype 3"), std::string::npos);
  EXPECT_NE(refusal(safetensors(R"({"a":{"dtype":"F32","shape":[1]}})", 0)).find("has no data_offsets"),
            std::string::npos);
  for (const char* shape : {"7", "[-1]", "[1.5]", "[9223372036854775808]", "[18446744073709551616]", "[\"1\"]", "[[1]]",
                            "null", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]"}) {
    EXPECT_NE(refusal(safetensors(entry("F32", shape, "[0,4]"), 4)).find("has shape"), std::string::npos) << shape;
  }
  for (const char* offsets : {"[0]", "[0,4,8]", "[-4,0]", "[0,4.0]", "[4,0]", "[0,5]", "[0,18446744073709551615]",
                              "\"x\"", "[18446744073709551612,18446744073709551615]"}) {
    EXPECT_NE(refusal(safetensors(entry("F32", "[1]", offsets), 4)).find("has data_offsets"), std::string::npos)
        << offsets;
  }
}

TEST(SafetensorsHeader, RefusesSizesThatContradict) {
  EXPECT_EQ(refusal(safetensors(entry("F32", "[2,3]", "[0,20]"), 24)),
            "weights: tensor 'a' has shape [2, 3] of F32, 24 bytes, but its data_offsets hold 20 bytes");
  // 2^62 * 4 is 2^64: no bytes, if it wrapped.
  EXPECT_NE(refusal(safetensors(entry("F32", "[4611686018427387904]", "[0,0]"), 0)).find("more than 2^64 bytes"),
            std::string::npos);
  EXPECT_NE(refusal(safetensors(entry("F32", "[4294967296,4294967296]", "[0,0]"), 0)).find("more than 2^64 bytes"),
            std::string::npos);
  EXPECT_EQ(refusal(safetensors(entry("F32", "[0,5]", "[0,0]"), 0)), "accepted");
  EXPECT_EQ(refusal(safetensors(entry("X9", "[3]", "[0,1]"), 1)), "accepted");  // a type of the future is listed
}

TEST(SafetensorsHeader, RefusesOverlaps) {
  const auto two = [](const std::string& first, const std::string& second) {
    return safetensors(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + first +
                           R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + second + "}}",
                       16);
  };
  EXPECT_EQ(refusal(two("[0,4]", "[4,8]")), "accepted");
  EXPECT_EQ(refusal(two("[8,12]", "[4,8]")), "accepted");
  EXPECT_NE(refusal(two("[0,4]", "[3,7]")).find("'a' and 'b' overlap at byte"), std::string::npos);
  EXPECT_NE(refusal(two("[4,8]", "[4,8]")).find("overlap"), std::string::npos);
}

/// Whatever the bytes are, the parser answers with tensors that lie within them or with one kind of error.
TEST(SafetensorsHeader, SurvivesMutations) {
  const Bytes good = safetensors(kGood, 40);
  std::mt19937 random(20240607);
  const auto pick = [&](size_t below) { return std::uniform_int_distribution<size_t>(0, below - 1)(random); };
  const std::string interesting = "{}[]\",:-+.eE0123456789\\u\x7f\xff ntf";
  int accepted = 0;
  for (int mutation = 0; mutation < 3000; ++mutation) {
    Bytes bytes = good;
    const size_t edits = 1 + pick(4);
    for (size_t edit = 0; edit < edits; ++edit) {
      // Half of the edits keep to the header's text: most others only spoil data.
      const size_t at = pick(2) == 0 ? 8 + pick(kGood.size()) : pick(bytes.size());
      const auto spot = bytes.begin() + static_cast<ptrdiff_t>(std::min(at, bytes.size() - 1));
      switch (pick(4)) {
        case 0:
          *spot = static_cast<std::byte>(pick(256));
          break;
        case 1:
          *spot = static_cast<std::byte>(interesting[pick(interesting.size())]);
          break;
        case 2:
          bytes.erase(spot);
          break;
        default:
          bytes.insert(spot, static_cast<std::byte>(interesting[pick(interesting.size())]));
      }
    }
    try {
      for (const StoredTensor& tensor : parseSafetensorsHeader(bytes, "weights")) {
        ASSERT_LE(tensor.beginByte, tensor.endByte);
        ASSERT_LE(tensor.endByte, bytes.size());
      }
      ++accepted;
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ErrorCode::kModelInvalid) << error.what();
    }
  }
  // Some edits are harmless (data, names, white space); if all or none were, the mutations would test nothing.
  EXPECT_GT(accepted, 100);
  EXPECT_LT(accepted, 2900);
}

}  // namespace
}  // namespace hels
