#include "core/mapped_file.h"

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

}  // namespace
}  // namespace winnow
