#include "core/mapped_file.h"

#include <unistd.h>

#include "core/bus_error.h"
#include "support/format_testing.h"

namespace winnow {
namespace {

TEST(MappedFile, MapsTheWholeFileAndMoves) {
  const TemporaryFolder folder;
  MappedFile file(folder.write("a", "hello"));
  EXPECT_EQ(file.text(), "hello");
  const MappedFile moved(std::move(file));
  EXPECT_EQ(moved.text(), "hello");
  moved.drop_pages();
  EXPECT_EQ(moved.text(), "hello") << "dropped pages come back from the file";
}

TEST(MappedFile, EmptyFileHasNoBytes) {
  const TemporaryFolder folder;
  const MappedFile file(folder.write("empty", ""));
  EXPECT_TRUE(file.bytes().empty());
  file.drop_pages();
}

TEST(MappedFile, ErrorsNamePathAndReason) {
  const TemporaryFolder folder;
  expect_error(ErrorCode::kIo, "missing: cannot open: No such file",
               [&] { MappedFile(folder.file("missing")); });
  expect_error(ErrorCode::kIo, "is a folder", [&] { MappedFile(folder.path().string()); });
  expect_error(ErrorCode::kIo, "is not a regular file", [] { MappedFile("/dev/null"); });
}

// What the program does when a model is cut short under it.
TEST(MappedFileDeathTest, AFileThatBecameShorterIsNamed) {
  const TemporaryFolder folder;
  const MappedFile file(folder.write("model.gguf", std::string(100'000, 'x')));
  ASSERT_EQ(::truncate(file.path().c_str(), 10), 0);
  EXPECT_EXIT(
      {
        explain_bus_errors();
        volatile std::byte last = file.bytes().back();
        (void)last;
      },
      testing::ExitedWithCode(1), "winnow: .*/model.gguf: became shorter while it was read");
}

}  // namespace
}  // namespace winnow
