#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace winnow {
namespace {

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
  // O_NONBLOCK: opening a FIFO by mistake must not hang; it changes nothing for a regular file.
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) fail(ErrorCode::kIo, "{}: cannot open: {}", path, std::strerror(errno));
  struct stat status = {};
  if (::fstat(file.fd, &status) != 0) fail(ErrorCode::kIo, "{}: cannot stat: {}", path, std::strerror(errno));
  if (S_ISDIR(status.st_mode)) fail(ErrorCode::kIo, "{}: is a folder, a file is needed", path);
  if (!S_ISREG(status.st_mode)) fail(ErrorCode::kIo, "{}: is not a regular file", path);
  if (status.st_size == 0) return;
  const auto size = static_cast<std::size_t>(status.st_size);
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (data == MAP_FAILED)
    fail(ErrorCode::kIo, "{}: cannot map {} bytes: {}", path, size, std::strerror(errno));
  data_ = data;
  size_ = size;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

void MappedFile::drop_pages() const {
  // A hint: when the system refuses, the pages merely stay.
  if (data_ != nullptr) ::madvise(data_, size_, MADV_DONTNEED);
}

}  // namespace winnow
