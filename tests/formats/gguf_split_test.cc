#include "formats/gguf_split.h"

#include <nlohmann/json.hpp>

#include "formats/weight_source.h"
#include "support/format_testing.h"
#include "support/gguf_builder.h"

namespace winnow {
namespace {

std::string part(int number) { return golden("split/tiny-0000" + std::to_string(number) + "-of-00003.gguf"); }

TEST(GgufSplit, AnyPartOpensTheWholeModel) {
  const auto whole = open_weights(golden("tiny_llama.gguf"));
  for (int number = 1; number <= 3; ++number) {
    const auto source = open_weights(part(number));
    EXPECT_EQ(source->path(), part(1));
    EXPECT_EQ(source->config(), whole->config());
    EXPECT_EQ(source->content_hash(), whole->content_hash());
    EXPECT_EQ(source->weight_bytes(), whole->weight_bytes());
    ASSERT_EQ(source->tensors().size(), whole->tensors().size());
    for (const TensorInfo& info : whole->tensors()) {
      const std::int64_t rows = info.shape.size() == 1 ? 1 : info.shape[0];
      std::vector<float> expected(static_cast<std::size_t>(rows * info.shape.back())), found(expected);
      whole->read_rows(info, 0, rows, expected);
      source->read_rows(*source->find(info.name), 0, rows, found);
      EXPECT_EQ(found, expected) << info.name;
    }
    source->drop_pages();
  }
}

TEST(GgufSplit, AFileAloneIsItsOnlyPart) {
  EXPECT_EQ(open_gguf_parts(golden("tiny_llama.gguf")).size(), 1u);
  EXPECT_EQ(first_gguf_part("a/b.gguf"), "a/b.gguf");
  EXPECT_EQ(first_gguf_part("a/b-00002-of-00003.gguf"), "a/b-00001-of-00003.gguf");
  for (const char* other : {"b-00002-of-00003.bin", "b-00004-of-00003.gguf", "b-00000-of-00003.gguf",
                            "b-0x002-of-00003.gguf", "b-00002_of_00003.gguf", "-of-00003.gguf"}) {
    EXPECT_EQ(first_gguf_part(other), other);
  }
}

// Parts of two tensors each, one of them different for a test.
class Parts {
 public:
  static GgufBuilder good(int number) {
    GgufBuilder builder;
    builder.u32("split.no", static_cast<std::uint32_t>(number - 1)).u32("split.count", 2);
    if (number == 1) builder.text("general.architecture", "llama").text("general.name", "a");
    return builder;
  }
  static GgufBuilder with_tensor(GgufBuilder builder, const std::string& name, std::uint32_t total = 2) {
    return builder.u32("split.tensors.count", total).tensor(name, {1}, std::vector{1.0f});
  }
  Parts(const GgufBuilder& first, const GgufBuilder& second)
      : first_(folder_.write("m-00001-of-00002.gguf", first.build())),
        second_(folder_.write("m-00002-of-00002.gguf", second.build())) {}
  const std::string& first() const { return first_; }
  const std::string& second() const { return second_; }
  const TemporaryFolder& folder() const { return folder_; }

 private:
  TemporaryFolder folder_;
  std::string first_, second_;
};

TEST(GgufSplit, DamageIsAnErrorThatNamesTheFile) {
  const GgufBuilder first = Parts::with_tensor(Parts::good(1), "t.1"),
                    second = Parts::with_tensor(Parts::good(2), "t.2");
  EXPECT_EQ(open_gguf_parts(Parts(first, second).second()).size(), 2u);

  const auto expect_second_bad = [&](const GgufBuilder& bad, const std::string& message) {
    const Parts parts(first, bad);
    expect_error(ErrorCode::kBadFormat, "m-00002-of-00002.gguf: " + message,
                 [&] { open_gguf_parts(parts.first()); });
  };
  expect_second_bad(Parts::with_tensor(Parts::good(1), "t.2"), "split.no is 0, expected 1");
  expect_second_bad(GgufBuilder().u32("split.no", 1).u32("split.count", 3), "split.count is 3, expected 2");
  expect_second_bad(GgufBuilder().u32("split.no", 1), "the metadata key split.count is missing");
  expect_second_bad(Parts::with_tensor(Parts::good(2), "t.2", 5), "split.tensors.count is 5, expected 2");
  expect_second_bad(Parts::with_tensor(Parts::good(2).text("general.name", "b"), "t.2"),
                    "general.name is b, but a in ");
  expect_second_bad(Parts::with_tensor(Parts::good(2).text("general.architecture", "gpt2"), "t.2"),
                    "general.architecture is gpt2, but llama in ");
  expect_second_bad(Parts::with_tensor(Parts::good(2), "t.1"), "tensor t.1 is in ");

  const Parts few(Parts::with_tensor(Parts::good(1), "t.1", 3), Parts::with_tensor(Parts::good(2), "t.2", 3));
  expect_error(ErrorCode::kBadFormat, "split.tensors.count is 3, but its 2 parts hold 2 tensors",
               [&] { open_gguf_parts(few.first()); });

  const Parts missing(first, second);
  std::filesystem::remove(missing.second());
  expect_error(ErrorCode::kIo, "m-00002-of-00002.gguf: part 2 of 2 is missing",
               [&] { open_gguf_parts(missing.first()); });

  const Parts renamed(first, second);
  const std::string path = renamed.folder().write("other.gguf", first.build());
  expect_error(ErrorCode::kBadFormat, "other.gguf: split.count is 2, but the name does not end in",
               [&] { open_gguf_parts(path); });
}

}  // namespace
}  // namespace winnow
