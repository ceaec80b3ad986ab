// Journal: the samples of an evaluation under way, a JSON object a line, so that an interrupted one goes on
// where it stopped. A sample's key is a hash of all that decides it: other samples in the file do no harm.
#pragma once

#include <map>
#include <string>

#include "eval/sample.h"

namespace winnow {

class Journal {
 public:
  // Reads what an earlier run left at `path`; a line that is no sample (what a crash in the middle of a write
  // leaves) and all after it are dropped. Error(kIo), or Error(kBadFormat) for a file that is not a journal.
  explicit Journal(std::string path);
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;
  ~Journal();

  const Sample* find(const std::string& key) const;
  void add(const std::string& key, const Sample& sample);  // written at once
  // Also knows the samples of another journal, where there is one; `keep`: and writes them.
  void learn(const std::string& path, bool keep);
  std::size_t size() const { return samples_.size(); }
  void remove();  // the file: the evaluation is complete

  // Removes a journal, or does nothing where there is none. Error(kBadFormat) as above.
  static void discard(const std::string& path);

 private:
  void write(const std::string& text);

  std::string path_;
  std::map<std::string, Sample> samples_;
  int fd_ = -1;
};

}  // namespace winnow
