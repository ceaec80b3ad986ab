#include "tokenizer/normalizer.h"

#include "tokenizer/nfc.h"

namespace winnow {

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  out.reserve(text.size() + text.size() / 4);
  while (true) {
    const std::size_t found = text.find(from);
    out.append(text.substr(0, found));
    if (found == std::string_view::npos) return out;
    out.append(to);
    text.remove_prefix(found + from.size());
  }
}

bool Normalizer::changes(const Step& step, std::string_view text) {
  switch (step.kind) {
    case Kind::kNfc: return may_need_nfc(text);
    case Kind::kPrepend: return !text.empty();
    case Kind::kReplace: return text.find(step.from) != std::string_view::npos;
  }
  return false;
}

std::string Normalizer::run(const Step& step, std::string_view text) {
  switch (step.kind) {
    case Kind::kNfc: return nfc(text);
    case Kind::kPrepend: return step.to + std::string(text);
    case Kind::kReplace: return replace_all(text, step.from, step.to);
  }
  return {};
}

bool Normalizer::removes(std::string_view text) const {
  bool removed = false;
  for (const Step& step : steps_) {
    if (step.kind == Kind::kReplace && step.from == text && text.size() == 1) removed = true;
    // Another step may bring it back.
    if (step.kind == Kind::kNfc || step.to.find(text) != std::string::npos) removed = false;
  }
  return removed;
}

std::string_view Normalizer::apply(std::string_view text, std::string& storage) const {
  for (const Step& step : steps_) {
    if (!changes(step, text)) continue;
    std::string changed = run(step, text);  // `text` may be a view of `storage`
    storage = std::move(changed);
    text = storage;
  }
  return text;
}

}  // namespace winnow
