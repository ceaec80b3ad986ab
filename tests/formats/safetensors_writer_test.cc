#include "formats/safetensors_writer.h"

#include "formats/safetensors.h"
#include "support/format_testing.h"

namespace winnow::testing {
namespace {

TEST(SafetensorsWriter, ReadsBack) {
  TemporaryFolder folder;
  const std::vector<float> a{1.5f, -2.0f, 3.0f, 4.0f, 5.0f, 6.0f}, b{7.0f};
  const std::vector<TensorToWrite> tensors{{"a", {2, 3}, a}, {"b.c", {1}, b}, {"none", {0, 4}, {}}};
  const std::string bytes = safetensors_bytes(tensors, {{"k", "v\n\"w\""}});
  EXPECT_EQ(bytes, safetensors_bytes(tensors, {{"k", "v\n\"w\""}}));
  const SafetensorsFile file(folder.write("t.safetensors", bytes));
  EXPECT_EQ(file.metadata().at("k"), "v\n\"w\"");
  ASSERT_EQ(file.tensors().size(), 3u);
  EXPECT_EQ(file.find("a")->shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(std::memcmp(file.find("a")->data.data(), a.data(), 24), 0);
  EXPECT_EQ(std::memcmp(file.find("b.c")->data.data(), b.data(), 4), 0);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(file.find("a")->data.data()) % 4, 0u);
}

TEST(SafetensorsWriter, WithoutMetadata) {
  TemporaryFolder folder;
  const std::vector<float> a{1.0f};
  const std::vector<TensorToWrite> tensors{{"a", {1}, a}};
  EXPECT_TRUE(
      SafetensorsFile(folder.write("t.safetensors", safetensors_bytes(tensors, {}))).metadata().empty());
}

}  // namespace
}  // namespace winnow::testing
