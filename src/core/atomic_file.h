// Output files that are either complete or not there: results of long runs are never left half-written.
#pragma once

#include <string>
#include <string_view>

namespace winnow {

// Writes `content` to a temporary file beside `path`, syncs it and renames it to `path`. A symbolic link is
// followed; a device or pipe (/dev/null, /dev/stdout) is written directly, as it cannot be replaced. Throws
// Error(kIo); an existing file at `path` is then unchanged and the temporary file is gone.
void write_file_atomically(const std::string& path, std::string_view content);

// Throws Error(kIo) when write_file_atomically(path, ...) could not create its file: call it before the long
// work. Leaves nothing behind and does not touch an existing file.
void check_writable(const std::string& path);

}  // namespace winnow
