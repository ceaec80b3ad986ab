#include "formats/gguf.h"

#include <functional>
#include <limits>

#include "support/format_testing.h"
#include "support/gguf_builder.h"

namespace winnow {
namespace {

constexpr std::uint64_t kHuge = std::numeric_limits<std::uint64_t>::max();

GgufFile parse(const std::string& file) { return GgufFile(bytes_of(file), "test.gguf"); }

std::string array(std::uint32_t element_type, std::uint64_t count, const std::string& elements) {
  return GgufBuilder::raw(element_type) + GgufBuilder::raw(count) + elements;
}

TEST(Gguf, ReadsEveryValueType) {
  GgufBuilder builder;
  builder.key("u8", 0, GgufBuilder::raw<std::uint8_t>(200)).key("i8", 1, GgufBuilder::raw<std::int8_t>(-100));
  builder.key("u16", 2, GgufBuilder::raw<std::uint16_t>(60000))
      .key("i16", 3, GgufBuilder::raw<std::int16_t>(-3000));
  builder.u32("u32", 4'000'000'000u).key("i32", 5, GgufBuilder::raw<std::int32_t>(-7)).f32("f32", 1.5f);
  builder.key("yes", 7, "\x01")
      .key("no", 7, std::string(1, '\0'))
      .text("text", "h\xc3\xa9llo")
      .text("empty", "");
  builder.key("u64", 10, GgufBuilder::raw<std::uint64_t>(1ull << 62))
      .key("i64", 11, GgufBuilder::raw(std::int64_t{-9}));
  builder.key("f64", 12, GgufBuilder::raw(2.25));
  const std::string bytes = builder.build();
  const GgufFile file = parse(bytes);
  EXPECT_EQ(file.integer("u8"), 200);
  EXPECT_EQ(file.integer("i8"), -100);
  EXPECT_EQ(file.integer("u16"), 60000);
  EXPECT_EQ(file.integer("i16"), -3000);
  EXPECT_EQ(file.integer("u32"), 4'000'000'000);
  EXPECT_EQ(file.integer("i32"), -7);
  EXPECT_EQ(file.integer("u64"), 1ll << 62);
  EXPECT_EQ(file.integer("i64"), -9);
  EXPECT_EQ(file.number("f32"), 1.5);
  EXPECT_EQ(file.number("f64"), 2.25);
  EXPECT_EQ(file.number("i32"), -7.0) << "integers are numbers";
  EXPECT_TRUE(file.boolean("yes"));
  EXPECT_FALSE(file.boolean("no"));
  EXPECT_EQ(file.string("text"), "h\xc3\xa9llo");
  EXPECT_EQ(file.string("empty"), "");
  EXPECT_TRUE(file.has("u8"));
  EXPECT_FALSE(file.has("u9"));
  EXPECT_EQ(file.metadata().size(), 14u);
}

TEST(Gguf, ReadsArrays) {
  GgufBuilder builder;
  builder.key("ints", 9, array(5, 3, GgufBuilder::raw(1) + GgufBuilder::raw(-2) + GgufBuilder::raw(3)));
  builder.key("floats", 9, array(6, 2, GgufBuilder::raw(0.5f) + GgufBuilder::raw(-1.0f)));
  builder.key(
      "strings", 9,
      array(8, 3,
            GgufBuilder::raw_string("a") + GgufBuilder::raw_string("") + GgufBuilder::raw_string("bc")));
  builder.key("none", 9, array(8, 0, ""));
  builder.key("nested", 9,
              array(9, 2, array(4, 1, GgufBuilder::raw(7)) + array(8, 1, GgufBuilder::raw_string("x"))));
  builder.u32("after", 5);
  const std::string bytes = builder.build();
  const GgufFile file = parse(bytes);
  EXPECT_EQ(file.integers("ints"), (std::vector<std::int64_t>{1, -2, 3}));
  EXPECT_EQ(file.numbers("ints"), (std::vector<double>{1, -2, 3}));
  EXPECT_EQ(file.numbers("floats"), (std::vector<double>{0.5, -1.0}));
  EXPECT_EQ(file.strings("strings"), (std::vector<std::string_view>{"a", "", "bc"}));
  EXPECT_TRUE(file.strings("none").empty());
  EXPECT_EQ(file.integer("after"), 5) << "a nested array is skipped as a whole";
  expect_error(ErrorCode::kBadFormat, "key nested is an array of array, expected an array of integers",
               [&] { file.integers("nested"); });
}

TEST(Gguf, GettersNameTheKeyAndTheTypes) {
  const std::string bytes =
      GgufBuilder().text("name", "x").u32("n", 1).key("big", 10, GgufBuilder::raw(kHuge)).build();
  const GgufFile file = parse(bytes);
  EXPECT_FALSE(file.find_integer("missing").has_value());
  EXPECT_FALSE(file.find_strings("missing").has_value());
  expect_error(ErrorCode::kBadFormat, "test.gguf: the metadata key missing is missing",
               [&] { file.integer("missing"); });
  expect_error(ErrorCode::kBadFormat, "key name is a string, expected an integer",
               [&] { file.integer("name"); });
  expect_error(ErrorCode::kBadFormat, "key n is a uint32, expected a string", [&] { file.string("n"); });
  expect_error(ErrorCode::kBadFormat, "key n is a uint32, expected a bool", [&] { file.boolean("n"); });
  expect_error(ErrorCode::kBadFormat, "key n is a uint32, expected an array of strings",
               [&] { file.strings("n"); });
  expect_error(ErrorCode::kBadFormat, "key big: the integer is larger", [&] { file.integer("big"); });
}

TEST(Gguf, ReadsTensorsWithShapeReversed) {
  const std::vector<float> a = {1, 2, 3, 4, 5, 6};
  GgufBuilder builder;
  builder.version = 2;
  builder.tensor("a", {3, 2}, a)
      .tensor("q", {32, 2}, 8, std::string(68, 'q'))
      .tensor("one", {1}, std::vector{9.0f});
  const std::string bytes = builder.build();
  const GgufFile file = parse(bytes);
  ASSERT_EQ(file.tensors().size(), 3u);
  const GgufTensor* tensor = file.find_tensor("a");
  ASSERT_NE(tensor, nullptr);
  EXPECT_EQ(tensor->shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(tensor->dtype, DType::kF32);
  EXPECT_EQ(std::memcmp(tensor->data.data(), a.data(), 24), 0);
  EXPECT_EQ(file.find_tensor("q")->data.size(), 68u);
  EXPECT_EQ(file.find_tensor("q")->dtype, DType::kQ8_0);
  EXPECT_EQ(file.find_tensor("b"), nullptr);
}

TEST(Gguf, AlignmentIsTheFiles) {
  GgufBuilder builder;
  builder.alignment = 128;
  builder.u32("general.alignment", 128)
      .tensor("a", {1}, std::vector{4.0f})
      .tensor("b", {1}, std::vector{5.0f});
  const std::string bytes = builder.build();
  const GgufFile file = parse(bytes);
  float b = 0;
  std::memcpy(&b, file.find_tensor("b")->data.data(), 4);
  EXPECT_EQ(b, 5.0f);
}

TEST(Gguf, ReadsWhatTheReferenceWriterWrites) {
  const GgufFile file(golden("tiny_llama.gguf"));
  EXPECT_EQ(file.string("general.architecture"), "llama");
  EXPECT_EQ(file.integer("llama.embedding_length"), 32);
  EXPECT_EQ(file.strings("tokenizer.ggml.tokens").size(), 48u);
  EXPECT_EQ(file.strings("tokenizer.ggml.tokens")[47], "t47");
  EXPECT_EQ(file.numbers("winnow.test.numbers"), (std::vector<double>{1.5, 2.5}));
  EXPECT_EQ(file.find_tensor("token_embd.weight")->dtype, DType::kF16);
  EXPECT_EQ(file.find_tensor("blk.0.ffn_up.weight")->dtype, DType::kBF16);
  EXPECT_EQ(file.find_tensor("blk.0.ffn_up.weight")->shape, (std::vector<std::int64_t>{64, 32}));
}

TEST(Gguf, ViewsSurviveAMove) {
  GgufFile file(golden("tiny_llama.gguf"));
  const std::string_view name = file.string("general.name");
  const GgufFile moved(std::move(file));
  EXPECT_EQ(name, "tiny llama");
  EXPECT_EQ(moved.find_tensor("output_norm.weight")->name, "output_norm.weight");
}

// The bytes live in a heap block of exactly their size, so that a sanitizer sees any read beyond them.
void expect_bad(std::string_view file, ErrorCode code, std::string_view message_part) {
  const std::vector<char> exact(file.begin(), file.end());
  expect_error(code, message_part, [&] { GgufFile(std::as_bytes(std::span(exact)), "test.gguf"); });
}

TEST(GgufDamage, EveryTruncationIsAnError) {
  GgufBuilder builder;
  builder.text("general.architecture", "llama").u32("n", 3);
  builder.key("list", 9, array(8, 2, GgufBuilder::raw_string("a") + GgufBuilder::raw_string("b")));
  builder.tensor("a", {2, 2}, std::vector<float>(4)).tensor("b", {32}, 2, std::string(18, 'q'));
  const std::string whole = builder.build();
  EXPECT_NO_THROW(parse(whole));
  for (std::size_t size = 0; size < whole.size(); ++size) {
    SCOPED_TRACE(size);
    const std::vector<char> exact(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_THROW(GgufFile(std::as_bytes(std::span(exact)), "test.gguf"), Error);
  }
}

TEST(GgufDamage, EveryFlippedByteIsReadOrAnError) {
  GgufBuilder builder;
  builder.text("name", "x").key("list", 9, array(8, 1, GgufBuilder::raw_string("a")));
  builder.tensor("a", {2, 2}, std::vector<float>(4));
  const std::string whole = builder.build();
  for (std::size_t i = 0; i < whole.size(); ++i) {
    for (const int flip : {0x01, 0x80, 0xff}) {
      std::vector<char> damaged(whole.begin(), whole.end());
      damaged[i] = static_cast<char>(damaged[i] ^ flip);
      try {
        GgufFile(std::as_bytes(std::span(damaged)), "test.gguf");
      } catch (const Error&) {
      }
    }
  }
}

struct Damage {
  const char* name;
  std::function<std::string()> file;
  ErrorCode code;
  const char* message_part;
};

std::string with_version(std::uint32_t version) {
  GgufBuilder builder;
  builder.version = version;
  return builder.build();
}

GgufBuilder with_tensor(const std::vector<std::uint64_t>& extents, std::uint32_t type, std::uint64_t offset) {
  return GgufBuilder().tensor("ok", {8}, std::vector<float>(8)).tensor_at("bad", extents, type, offset);
}

const Damage kDamages[] = {
    {"Empty", [] { return std::string(); }, ErrorCode::kBadFormat, "the magic number at byte 0"},
    {"Magic", [] { return "GGML" + with_version(3).substr(4); }, ErrorCode::kBadFormat, "is not a GGUF file"},
    {"Version0", [] { return with_version(0); }, ErrorCode::kUnsupported, "GGUF version 0 is not supported"},
    {"Version1", [] { return with_version(1); }, ErrorCode::kUnsupported, "GGUF version 1 is not supported"},
    {"Version4", [] { return with_version(4); }, ErrorCode::kUnsupported, "GGUF version 4 is not supported"},
    {"BigEndian", [] { return with_version(0x03000000); }, ErrorCode::kUnsupported, "big-endian"},
    {"KeyCount",
     [] {
       GgufBuilder builder;
       builder.extra_keys = kHuge / 2;
       return builder.build();
     },
     ErrorCode::kBadFormat, "key count 9223372036854775807 is more than 0 bytes can hold"},
    {"TensorCount",
     [] {
       GgufBuilder builder;
       builder.extra_tensors = kHuge;
       return builder.build();
     },
     ErrorCode::kBadFormat, "tensor count 18446744073709551615 is more than"},
    {"OneKeyTooMany",
     [] {
       GgufBuilder builder;
       builder.u32("long enough a key", 1).extra_keys = 1;
       return builder.build();
     },
     ErrorCode::kBadFormat, "the file is cut short"},
    {"KeyLength",
     [] {
       return with_version(3).substr(0, 16) + GgufBuilder::raw<std::uint64_t>(1) + GgufBuilder::raw(kHuge) +
              "12345678";
     },
     ErrorCode::kBadFormat, "a key at byte 32 takes 18446744073709551615 bytes"},
    {"StringLength", [] { return GgufBuilder().key("k", 8, GgufBuilder::raw(kHuge) + "abc").build(); },
     ErrorCode::kBadFormat, "takes 18446744073709551615 bytes, but 3 are left"},
    {"EmptyKey", [] { return GgufBuilder().u32("", 1).build(); }, ErrorCode::kBadFormat, "has no name"},
    {"DuplicateKey", [] { return GgufBuilder().u32("same", 1).u32("same", 1).build(); },
     ErrorCode::kBadFormat, "key same appears twice"},
    {"ValueType", [] { return GgufBuilder().key("k", 13, "12345678").build(); }, ErrorCode::kBadFormat,
     "key k has the unknown value type 13"},
    {"ElementType", [] { return GgufBuilder().key("k", 9, array(99, 1, "1")).build(); },
     ErrorCode::kBadFormat, "key k has the unknown value type 99"},
    {"ArrayLength", [] { return GgufBuilder().key("k", 9, array(12, kHuge / 8 + 2, "12345678")).build(); },
     ErrorCode::kBadFormat, "key k: 2305843009213693953 float64 elements do not fit the 8 bytes left"},
    {"StringArrayLength", [] { return GgufBuilder().key("k", 9, array(8, kHuge, "12345678")).build(); },
     ErrorCode::kBadFormat, "string elements do not fit"},
    {"ArrayDepth",
     [] {
       std::string value = array(0, 1, "1");
       for (int i = 0; i < 5; ++i) value = array(9, 1, value);
       return GgufBuilder().key("k", 9, value).build();
     },
     ErrorCode::kBadFormat, "key k: arrays are nested more than 4 deep"},
    {"AlignmentZero", [] { return GgufBuilder().u32("general.alignment", 0).build(); }, ErrorCode::kBadFormat,
     "general.alignment is 0; it must be a power of two"},
    {"Alignment48", [] { return GgufBuilder().u32("general.alignment", 48).build(); }, ErrorCode::kBadFormat,
     "general.alignment is 48"},
    {"AlignmentHuge", [] { return GgufBuilder().u32("general.alignment", 1u << 31).build(); },
     ErrorCode::kBadFormat, "general.alignment is 2147483648"},
    {"AlignmentText", [] { return GgufBuilder().text("general.alignment", "32").build(); },
     ErrorCode::kBadFormat, "key general.alignment is a string, expected an integer"},
    {"DuplicateTensor",
     [] {
       return GgufBuilder().tensor("w", {1}, std::vector{1.f}).tensor("w", {1}, std::vector{1.f}).build();
     },
     ErrorCode::kBadFormat, "tensor w appears twice"},
    {"UnnamedTensor", [] { return GgufBuilder().tensor("", {8}, std::vector<float>(8)).build(); },
     ErrorCode::kBadFormat, "a tensor has no name"},
    {"TensorTypeKnown", [] { return with_tensor({256}, 16, 0).build(); }, ErrorCode::kUnsupported,
     "tensor bad has type 16 (IQ2_XXS), which winnow does not read"},
    {"RowsOfAKTypeAreBlocksOf256", [] { return with_tensor({128}, 12, 0).build(); }, ErrorCode::kBadFormat,
     "rows of 128 elements are no whole number of Q4_K blocks of 256"},
    {"TensorTypeUnknown", [] { return with_tensor({8}, 4711, 0).build(); }, ErrorCode::kUnsupported,
     "tensor bad has type 4711 (unknown)"},
    {"ControlBytesInName", [] { return GgufBuilder().tensor_at("\x1b[2J", {8}, 4711, 0).build(); },
     ErrorCode::kUnsupported, "tensor ?[2J has"},
    {"NoDimensions", [] { return with_tensor({}, 0, 0).build(); }, ErrorCode::kBadFormat,
     "tensor bad has 0 dimensions; 1 to 4 are possible"},
    {"FiveDimensions",
     [] {
       return with_tensor({1, 1, 1, 1, 1}, 0, 0).build();
     },
     ErrorCode::kBadFormat, "tensor bad has 5 dimensions"},
    {"ZeroDimension",
     [] {
       return with_tensor({4, 0}, 0, 0).build();
     },
     ErrorCode::kBadFormat, "tensor bad: dimension 1 is 0"},
    {"NegativeDimension", [] { return with_tensor({kHuge}, 0, 0).build(); }, ErrorCode::kBadFormat,
     "tensor bad: dimension 0 is -1"},
    {"ElementOverflow",
     [] {
       return with_tensor({1ull << 32, 1ull << 31}, 0, 0).build();
     },
     ErrorCode::kBadFormat, "tensor bad: dimension 1 is 2147483648"},
    {"ByteOverflow", [] { return with_tensor({1ull << 62}, 0, 0).build(); }, ErrorCode::kBadFormat,
     "tensor bad is impossibly large"},
    {"PartialBlock", [] { return with_tensor({48}, 2, 0).build(); }, ErrorCode::kBadFormat,
     "tensor bad: rows of 48 elements are no whole number of Q4_0 blocks of 32"},
    {"OffsetNotAligned", [] { return with_tensor({1}, 0, 4).build(); }, ErrorCode::kBadFormat,
     "tensor bad: offset 4 is not a multiple of the alignment 32"},
    {"OffsetOutside", [] { return with_tensor({1}, 0, 64).build(); }, ErrorCode::kBadFormat,
     "tensor bad: 4 bytes at offset 64 are outside the data section of 32 bytes"},
    {"OffsetOverflow", [] { return with_tensor({8}, 0, kHuge - 31).build(); }, ErrorCode::kBadFormat,
     "are outside the data section"},
    {"TensorTooLong", [] { return with_tensor({9}, 0, 0).build(); }, ErrorCode::kBadFormat,
     "tensor bad: 36 bytes at offset 0 are outside"},
};

class GgufDamageTable : public testing::TestWithParam<Damage> {};

TEST_P(GgufDamageTable, IsAnErrorThatNamesIt) {
  expect_bad(GetParam().file(), GetParam().code, GetParam().message_part);
}

INSTANTIATE_TEST_SUITE_P(All, GgufDamageTable, testing::ValuesIn(kDamages),
                         [](const auto& instance) { return std::string(instance.param.name); });

}  // namespace
}  // namespace winnow
