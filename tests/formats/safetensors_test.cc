#include "formats/safetensors.h"

#include <nlohmann/json.hpp>

#include "formats/json_text.h"
#include "support/format_testing.h"
#include "support/gguf_builder.h"

namespace winnow {
namespace {

std::string file_of(std::string_view header, std::string_view data) {
  return GgufBuilder::raw_string(header) +
         std::string(data);  // a string there is a u64 length and its bytes, too
}

constexpr std::string_view kTwoTensors =
    R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F16","shape":[1,2],"data_offsets":[8,12]},)"
    R"("__metadata__":{"format":"pt"}})";

TEST(Safetensors, ReadsTensorsAndMetadata) {
  const std::string bytes = file_of(kTwoTensors, "abcdefghijkl");
  const SafetensorsFile file(bytes_of(bytes), "f");
  ASSERT_EQ(file.tensors().size(), 2u);
  const SafetensorsTensor* b = file.find("b");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->dtype, DType::kF16);
  EXPECT_EQ(b->shape, (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(b->data.data()), b->data.size()), "ijkl");
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.find("c"), nullptr);
}

TEST(Safetensors, OtherTypesAreListedWithoutADtype) {
  const std::string bytes = file_of(
      R"({"i":{"dtype":"I64","shape":[],"data_offsets":[0,8]},"f":{"dtype":"F4","shape":[3],"data_offsets":[8,10]}})",
      "0123456789");
  const SafetensorsFile file(bytes_of(bytes), "f");
  EXPECT_FALSE(file.find("i")->dtype.has_value());
  EXPECT_EQ(file.find("i")->dtype_name, "I64");
  EXPECT_FALSE(file.find("f")->dtype.has_value()) << "a type of unknown size";
}

TEST(Safetensors, EmptyTensorsMayShareAPlace) {
  const std::string bytes = file_of(
      R"({"a":{"dtype":"F32","shape":[0,4],"data_offsets":[0,0]},"b":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}})",
      "");
  EXPECT_EQ(SafetensorsFile(bytes_of(bytes), "f").tensors().size(), 2u);
}

TEST(Safetensors, ReadsWhatTheReferenceWrites) {
  const SafetensorsFile file(golden("llama_hf/model.safetensors"));
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.find("model.embed_tokens.weight")->dtype, DType::kBF16);
  EXPECT_EQ(file.find("model.norm.weight")->dtype, DType::kF16);
  EXPECT_EQ(file.find("position_ids")->dtype_name, "I64");
  const SafetensorsFolder shards(golden("gpt2_hf"));
  ASSERT_EQ(shards.tensors().size(), 8u);
  EXPECT_EQ(shards.tensors()[0]->name, "h.0.attn.bias");
}

TEST(SafetensorsDamage, EveryTruncationIsAnError) {
  const std::string whole = file_of(kTwoTensors, "abcdefghijkl");
  for (std::size_t size = 0; size < whole.size(); ++size) {
    SCOPED_TRACE(size);
    const std::vector<char> exact(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_THROW(SafetensorsFile(std::as_bytes(std::span(exact)), "f"), Error);
  }
}

struct Damage {
  const char* name;
  std::string file;
  const char* message_part;
};

std::string one_tensor(std::string_view entry) {
  return file_of(fmt::format(R"({{"w":{}}})", entry), "01234567");
}

const Damage kDamages[] = {
    {"HeaderLength", GgufBuilder::raw(~std::uint64_t{0}) + "{}",
     "its header takes 18446744073709551615 bytes"},
    {"HeaderLengthByOne", GgufBuilder::raw(std::uint64_t{3}) + "{}", "its header takes 3 bytes, 2 are left"},
    {"NotJson", file_of("{\"a\":", ""), "f: bad JSON"},
    {"NotUtf8", file_of("{\"a\xff\":1}", ""), "f: bad JSON"},
    {"NoObject", file_of("[1]", ""), "the JSON is no object"},
    {"Deep", file_of("{\"a\":" + std::string(500'000, '['), ""), "nested more than 64 levels"},
    {"DuplicateTensor",
     file_of(R"({"w":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
             R"("w":{"dtype":"F32","shape":[],"data_offsets":[4,8]}})",
             "01234567"),
     "the JSON key w appears twice"},
    {"DuplicateMember", one_tensor(R"({"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]})"),
     "the JSON key dtype appears twice"},
    {"EntryNoObject", one_tensor("7"), "tensor w: its header entry is no object"},
    {"NoDtype", one_tensor(R"({"shape":[2],"data_offsets":[0,8]})"),
     "tensor w: dtype is missing or no string"},
    {"DtypeNumber", one_tensor(R"({"dtype":1,"shape":[2],"data_offsets":[0,8]})"),
     "tensor w: dtype is missing or no string"},
    {"NoShape", one_tensor(R"({"dtype":"F32","data_offsets":[0,8]})"),
     "tensor w: shape is missing or no array"},
    {"NegativeExtent", one_tensor(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})"),
     "tensor w: shape holds -2"},
    {"FractionExtent", one_tensor(R"({"dtype":"F32","shape":[2.0],"data_offsets":[0,8]})"),
     "tensor w: shape holds 2.0"},
    {"HugeExtent", one_tensor(R"({"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,8]})"),
     "tensor w: shape holds 9223372036854775808"},
    {"HugerExtent", one_tensor(R"({"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,8]})"),
     "tensor w: shape holds 1e+20"},
    {"ProductOverflow", one_tensor(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})"),
     "tensor w: its shape is impossibly large"},
    {"ByteOverflow", one_tensor(R"({"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]})"),
     "tensor w: its shape is impossibly large"},
    {"NoOffsets", one_tensor(R"({"dtype":"F32","shape":[2]})"),
     "tensor w: data_offsets is missing or no array"},
    {"OneOffset", one_tensor(R"({"dtype":"F32","shape":[2],"data_offsets":[8]})"),
     "tensor w: data_offsets has 1 elements"},
    {"OffsetsReversed", one_tensor(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})"),
     "tensor w: data_offsets [8, 0] are outside the data of 8 bytes"},
    {"OffsetsOutside", one_tensor(R"({"dtype":"F32","shape":[2],"data_offsets":[4,12]})"),
     "tensor w: data_offsets [4, 12] are outside the data of 8 bytes"},
    {"SizeDiffers", one_tensor(R"({"dtype":"F16","shape":[2],"data_offsets":[0,8]})"),
     "tensor w: it has 8 bytes of data, but its shape and dtype F16 make 4"},
    {"Overlap",
     file_of(R"({"v":{"dtype":"F16","shape":[3],"data_offsets":[0,6]},)"
             R"("w":{"dtype":"F16","shape":[2],"data_offsets":[4,8]}})",
             "01234567"),
     "the data of tensors v and w overlap"},
    {"MetadataNoObject", file_of(R"({"__metadata__":[]})", ""), "__metadata__ is no object"},
    {"MetadataNoString", file_of(R"({"__metadata__":{"k":1}})", ""), "__metadata__: k is no string"},
};

class SafetensorsDamageTable : public testing::TestWithParam<Damage> {};

TEST_P(SafetensorsDamageTable, IsAnErrorThatNamesIt) {
  const std::vector<char> exact(GetParam().file.begin(), GetParam().file.end());
  expect_error(ErrorCode::kBadFormat, GetParam().message_part,
               [&] { SafetensorsFile(std::as_bytes(std::span(exact)), "f"); });
}

INSTANTIATE_TEST_SUITE_P(All, SafetensorsDamageTable, testing::ValuesIn(kDamages),
                         [](const auto& instance) { return std::string(instance.param.name); });

TEST(SafetensorsIndex, ShardsMustBePlainNames) {
  EXPECT_EQ(parse_safetensors_index(R"({"weight_map":{"a":"x.safetensors"}})", "i").at("a"), "x.safetensors");
  for (const char* name : {"../x", "/etc/passwd", "a/b", "..", ".", "", "a\\\\b", "a\\u0000b"}) {
    SCOPED_TRACE(name);
    expect_error(ErrorCode::kBadFormat, "weight_map: a: ", [&] {
      parse_safetensors_index(fmt::format(R"({{"weight_map":{{"a":"{}"}}}})", name), "i");
    });
  }
  expect_error(ErrorCode::kBadFormat, "is no plain file name",
               [] { parse_safetensors_index(R"({"weight_map":{"a":1}})", "i"); });
  expect_error(ErrorCode::kBadFormat, "weight_map is missing", [] { parse_safetensors_index("{}", "i"); });
  expect_error(ErrorCode::kBadFormat, "the JSON key a appears twice",
               [] { parse_safetensors_index(R"({"weight_map":{"a":"x","a":"y"}})", "i"); });
}

TEST(SafetensorsFolder, NamesWhatIsMissing) {
  const TemporaryFolder folder;
  expect_error(ErrorCode::kIo, "has neither model.safetensors nor",
               [&] { SafetensorsFolder(folder.path().string()); });
  folder.write("model.safetensors.index.json",
               R"({"weight_map":{"a":"one.safetensors","z":"one.safetensors"}})");
  expect_error(ErrorCode::kIo, "one.safetensors: cannot open",
               [&] { SafetensorsFolder(folder.path().string()); });
  folder.write("one.safetensors", file_of(kTwoTensors, "abcdefghijkl"));
  expect_error(ErrorCode::kBadFormat,
               "one.safetensors: the index places tensor z in this file, which lacks it",
               [&] { SafetensorsFolder(folder.path().string()); });
}

TEST(JsonText, SizeIsLimited) {
  expect_error(ErrorCode::kBadFormat, "f: 6 bytes of JSON; at most 5",
               [] { parse_json_object("{    }", "f", 5); });
  EXPECT_EQ(parse_json_object(R"({"a":{"k":1},"b":{"k":1}})", "f", 100).size(), 2u)
      << "the same key in two objects";
}

}  // namespace
}  // namespace winnow
