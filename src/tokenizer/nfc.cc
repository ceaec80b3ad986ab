#include "tokenizer/nfc.h"

#include <algorithm>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "tokenizer/char_class.h"
#include "tokenizer/unicode_data.h"

namespace winnow {
namespace {

// Hangul syllables by arithmetic: section 3.12 of the Unicode standard.
constexpr char32_t kSyllableBase = 0xAC00, kLeadBase = 0x1100, kVowelBase = 0x1161, kTailBase = 0x11A7;
constexpr char32_t kLeads = 19, kVowels = 21, kTails = 28, kSyllables = kLeads * kVowels * kTails;

struct Mark {
  char32_t code_point;
  std::uint8_t combining_class;
};

class NfcTables {
 public:
  static const NfcTables& instance() {
    static const NfcTables tables;
    return tables;
  }

  std::uint8_t combining_class(char32_t c) const {
    const auto ranges = combining_ranges();
    const auto after = std::upper_bound(ranges.begin(), ranges.end(), c,
                                        [](char32_t x, const CombiningRange& r) { return x < r.first; });
    if (after == ranges.begin() || c > std::prev(after)->last) return 0;
    return std::prev(after)->combining_class;
  }

  // Full canonical decomposition, appended; at most four levels deep.
  void decompose(char32_t c, std::vector<Mark>& out) const {
    if (c >= kSyllableBase && c < kSyllableBase + kSyllables)
      return decompose_syllable(c - kSyllableBase, out);
    const auto found = decompositions_.find(c);
    if (found == decompositions_.end()) return out.push_back({c, combining_class(c)});
    decompose(found->second.first, out);
    if (found->second.second != 0) decompose(found->second.second, out);
  }

  // The primary composite of two characters, or 0.
  char32_t compose(char32_t first, char32_t second) const {
    if (first - kLeadBase < kLeads && second - kVowelBase < kVowels) {
      return kSyllableBase + ((first - kLeadBase) * kVowels + (second - kVowelBase)) * kTails;
    }
    if (first - kSyllableBase < kSyllables && (first - kSyllableBase) % kTails == 0 &&
        second - kTailBase - 1 < kTails - 1) {
      return first + (second - kTailBase);
    }
    const auto found = composites_.find(pair_key(first, second));
    return found == composites_.end() ? 0 : found->second;
  }

 private:
  NfcTables() {
    for (const Decomposition& d : decompositions()) {
      decompositions_.emplace(d.composed, d);
      if (d.composes) composites_.emplace(pair_key(d.first, d.second), d.composed);
    }
  }

  static std::uint64_t pair_key(char32_t first, char32_t second) {
    return static_cast<std::uint64_t>(first) << 32 | second;
  }

  static void decompose_syllable(char32_t index, std::vector<Mark>& out) {
    out.push_back({kLeadBase + index / (kVowels * kTails), 0});
    out.push_back({kVowelBase + index % (kVowels * kTails) / kTails, 0});
    if (index % kTails != 0) out.push_back({kTailBase + index % kTails, 0});
  }

  std::unordered_map<char32_t, Decomposition> decompositions_;
  std::unordered_map<std::uint64_t, char32_t> composites_;
};

void sort_marks(std::vector<Mark>& marks) {
  for (auto begin = marks.begin(); begin != marks.end();) {
    if (begin->combining_class == 0) {
      ++begin;
      continue;
    }
    const auto end = std::find_if(begin, marks.end(), [](const Mark& m) { return m.combining_class == 0; });
    std::stable_sort(begin, end,
                     [](const Mark& a, const Mark& b) { return a.combining_class < b.combining_class; });
    begin = end;
  }
}

// Joins each mark with the last starter unless something between them blocks it. In place.
void compose_marks(std::vector<Mark>& marks, const NfcTables& tables) {
  std::size_t kept = 0, starter = 0;
  bool has_starter = false;
  for (const Mark mark : marks) {
    const bool adjacent = has_starter && kept == starter + 1;
    const bool blocked =
        !has_starter || (!adjacent && marks[kept - 1].combining_class >= mark.combining_class);
    if (!blocked) {
      if (const char32_t c = tables.compose(marks[starter].code_point, mark.code_point); c != 0) {
        marks[starter].code_point = c;
        continue;
      }
    }
    if (mark.combining_class == 0) {
      starter = kept;
      has_starter = true;
    }
    marks[kept++] = mark;
  }
  marks.resize(kept);
}

// End of the stretch of characters from `begin` whose classes have (or lack) kNfcUnsafe.
std::size_t skip(std::string_view text, std::size_t begin, bool unsafe, std::size_t& last) {
  const CharClasses& classes = CharClasses::instance();
  std::size_t bytes = 0;
  for (; begin < text.size(); begin += bytes) {
    if (((classes.at(text.data() + begin, bytes) & kNfcUnsafe) != 0) != unsafe) break;
    last = begin;
  }
  return begin;
}

}  // namespace

bool may_need_nfc(std::string_view text) {
  std::size_t last = 0;
  return skip(text, 0, /*unsafe=*/false, last) < text.size();
}

std::string nfc(std::string_view text) {
  const NfcTables& tables = NfcTables::instance();
  std::string out;
  out.reserve(text.size());
  std::vector<Mark> marks;
  for (std::size_t done = 0; done < text.size();) {
    // Safe characters stay; the last of them may be the base that the unsafe ones behind it join.
    std::size_t base = done, unused = 0;
    const std::size_t unsafe = skip(text, done, /*unsafe=*/false, base);
    if (unsafe == text.size()) base = unsafe;
    out.append(text.substr(done, base - done));
    done = skip(text, unsafe, /*unsafe=*/true, unused);
    marks.clear();
    std::size_t bytes = 0;
    for (std::size_t i = base; i < done; i += bytes)
      tables.decompose(utf8_decode(text.data() + i, bytes), marks);
    sort_marks(marks);
    compose_marks(marks, tables);
    for (const Mark& mark : marks) utf8_append(out, mark.code_point);
  }
  return out;
}

}  // namespace winnow
