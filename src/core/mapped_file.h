// MappedFile: a whole file, mapped read-only for as long as the object lives. An empty file has no bytes.
//
// The file must not shrink while it is mapped: access then raises SIGBUS (bus_error.h).
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace winnow {

class MappedFile {
 public:
  // Throws Error(kIo) naming the path and the system's reason.
  explicit MappedFile(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }
  std::string_view text() const { return {static_cast<const char*>(data_), size_}; }

  // Gives the pages back to the system; a later access reads them from the file again.
  void drop_pages() const;

 private:
  std::string path_;
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace winnow
