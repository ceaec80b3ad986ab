// LogitFile: rows of logits set aside on disk while another run over the same tokens makes its own. A
// vocabulary of 49,152 makes 800 MB of 4,096 rows: too much to hold beside a model, and float32 loses
// nothing, where a 16-bit copy would cost a KL of about 1e-5, which is what small thresholds are worth.
//
// The file has no name and is gone when its owner is, however the program ends. It lies in $TMPDIR, or else
// in the system's folder for temporary files.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace winnow {

class LogitFile {
 public:
  // Error(kIo) when the folder cannot take `rows` x `vocab` floats.
  LogitFile(std::int64_t rows, std::int64_t vocab);
  LogitFile(const LogitFile&) = delete;
  LogitFile& operator=(const LogitFile&) = delete;
  ~LogitFile();

  std::int64_t rows() const { return rows_; }
  std::int64_t vocab() const { return vocab_; }

  // Whole rows from `first_row` on; logits.size() is a multiple of vocab(). Error(kIo) names the folder.
  void write(std::int64_t first_row, std::span<const float> logits);
  void read(std::int64_t first_row, std::span<float> logits) const;

 private:
  std::int64_t check_rows(std::int64_t first_row, std::size_t floats) const;  // its offset in bytes

  std::int64_t rows_, vocab_;
  std::string folder_;
  int fd_ = -1;
};

}  // namespace winnow
