#include "core/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "core/error.h"

namespace winnow {
namespace {

struct Target {
  std::string path;        // symbolic links resolved
  bool is_stream = false;  // a device or pipe: written directly
};

Target resolve(const std::string& path) {
  if (path.empty()) fail(ErrorCode::kIo, "the name of an output file is empty");
  struct stat status = {};
  if (::stat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return {.path = path};
    fail(ErrorCode::kIo, "{}: cannot write: {}", path, std::strerror(errno));
  }
  if (S_ISDIR(status.st_mode)) fail(ErrorCode::kIo, "{}: is a folder, name a file to write", path);
  if (!S_ISREG(status.st_mode)) return {.path = path, .is_stream = true};
  const std::unique_ptr<char, void (*)(void*)> real(::realpath(path.c_str(), nullptr), std::free);
  return {.path = real != nullptr ? real.get() : path};
}

// A file under a name of its own beside the target, removed unless it was renamed to the target.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& target) : target_(target) {
    static std::atomic<unsigned> counter{0};
    for (int attempt = 0; attempt < 100 && fd_ < 0; ++attempt) {
      path_ = fmt::format("{}.tmp-{}-{}", target, ::getpid(), counter++);
      // 0666: the umask decides, as for any file a program writes.
      fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      if (fd_ < 0 && errno != EEXIST) break;
    }
    if (fd_ < 0) {
      fail(ErrorCode::kIo, "{}: cannot create a file in its folder: {}", target, std::strerror(errno));
    }
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    if (fd_ >= 0) ::close(fd_);
    if (!path_.empty()) ::unlink(path_.c_str());
  }

  int fd() const { return fd_; }

  void rename_to_target() {
    if (::fsync(fd_) != 0) throw_errno("sync");
    const int closed = ::close(fd_);
    fd_ = -1;
    if (closed != 0) throw_errno("close");
    if (std::rename(path_.c_str(), target_.c_str()) != 0) throw_errno("rename the finished file to");
    path_.clear();
  }

 private:
  [[noreturn]] void throw_errno(const char* action) const {
    fail(ErrorCode::kIo, "{}: cannot {} it: {}", target_, action, std::strerror(errno));
  }

  const std::string& target_;
  std::string path_;
  int fd_ = -1;
};

void write_all(int fd, std::string_view content, const std::string& path) {
  while (!content.empty()) {
    const ssize_t written = ::write(fd, content.data(), content.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail(ErrorCode::kIo, "{}: cannot write: {}", path, std::strerror(errno));
    content.remove_prefix(static_cast<std::size_t>(written));
  }
}

void write_stream(const std::string& path, std::string_view content) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) fail(ErrorCode::kIo, "{}: cannot open for writing: {}", path, std::strerror(errno));
  const std::unique_ptr<const int, void (*)(const int*)> closer(&fd, [](const int* p) { ::close(*p); });
  write_all(fd, content, path);
}

}  // namespace

void write_file_atomically(const std::string& path, std::string_view content) {
  const Target target = resolve(path);
  if (target.is_stream) return write_stream(target.path, content);
  TemporaryFile file(target.path);
  write_all(file.fd(), content, path);
  file.rename_to_target();
}

void check_writable(const std::string& path) {
  const Target target = resolve(path);
  if (!target.is_stream) {
    const TemporaryFile probe(target.path);
  } else if (::access(path.c_str(), W_OK) != 0) {
    fail(ErrorCode::kIo, "{}: cannot write: {}", path, std::strerror(errno));
  }
}

}  // namespace winnow
