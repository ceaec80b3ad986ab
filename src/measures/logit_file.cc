#include "measures/logit_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "core/check.h"
#include "core/error.h"

namespace winnow {
namespace {

// All of `bytes` through pread() or pwrite(), which may do less at a time; false with errno set.
template <class Transfer>
bool transfer_all(Transfer transfer, std::size_t bytes) {
  for (std::size_t done = 0; done < bytes;) {
    const ssize_t moved = transfer(done, bytes - done);
    if (moved < 0 && errno == EINTR) continue;
    if (moved <= 0) return false;
    done += static_cast<std::size_t>(moved);
  }
  return true;
}

}  // namespace

LogitFile::LogitFile(std::int64_t rows, std::int64_t vocab) : rows_(rows), vocab_(vocab) {
  check(rows >= 0 && vocab > 0, "LogitFile: rows of a vocabulary");
  std::error_code error;
  const std::filesystem::path folder = std::filesystem::temp_directory_path(error);
  folder_ = error ? "/tmp" : folder.string();
  const auto space = std::filesystem::space(folder_, error);
  const auto needed = static_cast<std::uint64_t>(rows) * static_cast<std::uint64_t>(vocab) * sizeof(float);
  if (!error && space.available < needed) {
    fail(ErrorCode::kIo, "{}: {} MB of logits do not fit, {} MB are free; set TMPDIR to a larger folder",
         folder_, needed / 1000000, space.available / 1000000);
  }
  std::string name = folder_ + "/winnow-logits-XXXXXX";
  fd_ = ::mkostemp(name.data(), O_CLOEXEC);
  if (fd_ < 0) fail(ErrorCode::kIo, "{}: cannot create a temporary file: {}", folder_, std::strerror(errno));
  ::unlink(name.c_str());
}

LogitFile::~LogitFile() { ::close(fd_); }

std::int64_t LogitFile::check_rows(std::int64_t first_row, std::size_t floats) const {
  const auto count = static_cast<std::int64_t>(floats);
  check(count % vocab_ == 0 && first_row >= 0 && first_row + count / vocab_ <= rows_,
        "LogitFile: rows in range");
  return first_row * vocab_ * static_cast<std::int64_t>(sizeof(float));
}

void LogitFile::write(std::int64_t first_row, std::span<const float> logits) {
  const std::int64_t offset = check_rows(first_row, logits.size());
  const auto* bytes = reinterpret_cast<const char*>(logits.data());
  const bool done = transfer_all(
      [&](std::size_t at, std::size_t count) {
        return ::pwrite(fd_, bytes + at, count, static_cast<off_t>(offset + static_cast<std::int64_t>(at)));
      },
      logits.size_bytes());
  if (!done) fail(ErrorCode::kIo, "{}: cannot write logits: {}", folder_, std::strerror(errno));
}

void LogitFile::read(std::int64_t first_row, std::span<float> logits) const {
  const std::int64_t offset = check_rows(first_row, logits.size());
  auto* bytes = reinterpret_cast<char*>(logits.data());
  errno = 0;
  const bool done = transfer_all(
      [&](std::size_t at, std::size_t count) {
        return ::pread(fd_, bytes + at, count, static_cast<off_t>(offset + static_cast<std::int64_t>(at)));
      },
      logits.size_bytes());
  if (!done) {
    fail(ErrorCode::kIo, "{}: cannot read logits back: {}", folder_,
         errno == 0 ? "they were never written" : std::strerror(errno));
  }
}

}  // namespace winnow
