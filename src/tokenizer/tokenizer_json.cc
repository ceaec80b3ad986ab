#include "core/byte_reader.h"
#include "core/error.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/loaders.h"
#include "tokenizer/spellings_by_id.h"
#include "tokenizer/token_json.h"

namespace winnow {
namespace {

[[noreturn]] void unsupported(const JsonField& field, std::string_view what) {
  fail(ErrorCode::kUnsupported, "{}: {} is not supported", field.where(), what);
}

// A part with a "type"; "Sequence" parts are lists of parts under `list`.
template <class Visit>
void for_each_part(const JsonField& part, const char* list, const Visit& visit) {
  if (part.is_null()) return;
  if (part["type"].string() != "Sequence") return visit(part);
  const JsonField parts = part[list];
  for (std::size_t i = 0; i < parts.array_size(); ++i) for_each_part(parts.at(i), list, visit);
}

std::vector<AddedToken> read_added_tokens(const JsonField& list) {
  std::vector<AddedToken> tokens;
  if (list.is_null()) return tokens;
  for (std::size_t i = 0; i < list.array_size(); ++i) {
    const JsonField token = list.at(i);
    tokens.push_back(read_added_token(token, token["id"].token_id()));
  }
  return tokens;
}

std::shared_ptr<const Vocabulary> read_vocabulary(const TokenJson& json, const std::vector<AddedToken>& added,
                                                  const std::string& source) {
  SpellingsById tokens(json.vocab.size() + added.size(), source);
  for (const auto& [spelling, id] : json.vocab) tokens.add(spelling, id);
  for (const AddedToken& token : added) tokens.add(token.content, token.id);
  return std::make_shared<const Vocabulary>(tokens.take(), source);
}

std::vector<Merge> resolve_merges(const TokenJson& json, const Vocabulary& vocabulary,
                                  const std::string& source) {
  std::vector<Merge> merges;
  merges.reserve(json.merges.size());
  for (const auto& [left, right] : json.merges) {
    merges.push_back(resolve_merge(vocabulary, left, right, merges.size(), source));
  }
  return merges;
}

BpeOptions read_options(const JsonField& model, const Vocabulary& vocabulary) {
  if (model["type"].string_or("BPE") != "BPE") unsupported(model["type"], model["type"].string());
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!model[key].string_or("").empty()) unsupported(model[key], "anything but \"\"");
  }
  if (!model["dropout"].is_null() && model["dropout"].value() != 0.0)
    unsupported(model["dropout"], "dropout");
  BpeOptions options{.byte_fallback = model["byte_fallback"].boolean_or(false),
                     .ignore_merges = model["ignore_merges"].boolean_or(false),
                     .unknown = -1,
                     .fuse_unknown = model["fuse_unk"].boolean_or(false)};
  if (!model["unk_token"].is_null()) {
    options.unknown = vocabulary.find(model["unk_token"].string());
    if (options.unknown < 0)
      fail(ErrorCode::kBadFormat, "{} is not in the vocabulary", model["unk_token"].where());
  }
  return options;
}

// The text of a {"String": ...}; an expression is not supported.
const std::string& plain_pattern(const JsonField& pattern) {
  if (!pattern["Regex"].is_null()) unsupported(pattern, "a regular expression");
  const std::string& text = pattern["String"].string();
  if (text.empty()) fail(ErrorCode::kBadFormat, "{} is empty", pattern.where());
  return text;
}

void read_normalizer(const JsonField& field, Normalizer& normalizer) {
  for_each_part(field, "normalizers", [&](const JsonField& part) {
    const std::string& type = part["type"].string();
    if (type == "NFC") {
      normalizer.add_nfc();
    } else if (type == "Prepend") {
      normalizer.add_prepend(part["prepend"].string());
    } else if (type == "Replace") {
      normalizer.add_replace(plain_pattern(part["pattern"]), part["content"].string());
    } else {
      unsupported(part, printable(type));
    }
  });
}

std::string escape_regex(const std::string& text) {
  std::string pattern;
  for (const char c : text) {
    if (std::string_view("\\^$.|?*+()[]{}-#").find(c) != std::string_view::npos) pattern += '\\';
    pattern += c;
  }
  return pattern;
}

// Nothing for a part that never finds what it looks for.
std::unique_ptr<Splitter> read_split(const JsonField& part, const TokenizerSpec& spec) {
  const JsonField string = part["pattern"]["String"];
  if (!string.is_null() && spec.normalizer.removes(string.string())) return nullptr;  // Gemma's
  const std::string behavior = part["behavior"].string();
  const bool invert = part["invert"].boolean_or(false);
  // Matches and what is between them are pieces; or, cut the other way round, only matches are left.
  const bool isolated = behavior == "Isolated", matches_only = behavior == "Removed" && invert;
  if (!isolated && !matches_only) unsupported(part["behavior"], printable(behavior));
  const JsonField pattern = part["pattern"];
  const std::string regex =
      pattern["Regex"].is_null() ? escape_regex(pattern["String"].string()) : pattern["Regex"].string();
  return make_regex_splitter(regex, /*keep_gaps=*/isolated, spec.source);
}

std::unique_ptr<Splitter> read_metaspace(const JsonField& part) {
  MetaspaceOptions options{.sign = part["replacement"].string(), .split = part["split"].boolean_or(true)};
  if (options.sign != kSpaceSign) unsupported(part["replacement"], printable(options.sign));
  // Older files say add_prefix_space.
  const char* by_default = part["add_prefix_space"].boolean_or(true) ? "always" : "never";
  const std::string scheme = part["prepend_scheme"].string_or(by_default);
  if (scheme == "always") {
    options.prepend = MetaspaceOptions::Prepend::kAlways;
  } else if (scheme == "first") {
    options.prepend = MetaspaceOptions::Prepend::kFirst;
  } else if (scheme == "never") {
    options.prepend = MetaspaceOptions::Prepend::kNever;
  } else {
    unsupported(part["prepend_scheme"], printable(scheme));
  }
  return make_metaspace(options);
}

// ByteLevel, if there is one, is the last part and makes the alphabet bytes; otherwise it is characters.
void read_pretokenizer(const JsonField& field, TokenizerSpec& spec) {
  Pretokenizer& pretokenizer = spec.pretokenizer;
  bool byte_level = false;
  for_each_part(field, "pretokenizers", [&](const JsonField& part) {
    const std::string& type = part["type"].string();
    if (byte_level) unsupported(part, "a part behind ByteLevel");
    if (type == "ByteLevel") {
      byte_level = true;
      if (part["add_prefix_space"].boolean_or(true)) pretokenizer.add(make_prefix_space());
      if (part["use_regex"].boolean_or(true)) pretokenizer.add(make_gpt2_splitter());
    } else if (type == "Digits") {
      pretokenizer.add(make_digits_splitter(part["individual_digits"].boolean_or(false)));
    } else if (type == "Split") {
      if (auto splitter = read_split(part, spec)) pretokenizer.add(std::move(splitter));
    } else if (type == "Metaspace") {
      pretokenizer.add(read_metaspace(part));
    } else {
      unsupported(part, printable(type));
    }
  });
  spec.bpe.alphabet = byte_level ? AlphabetKind::kBytes : AlphabetKind::kCharacters;
  if (byte_level && spec.bpe.byte_fallback) unsupported(field, "ByteLevel beside model.byte_fallback");
}

// Ids around the text in a TemplateProcessing's "single".
void read_template(const JsonField& part, TokenizerSpec& spec) {
  const JsonField single = part["single"];
  bool after_text = false;
  for (std::size_t i = 0; i < single.array_size(); ++i) {
    const JsonField item = single.at(i);
    if (!item["Sequence"].is_null()) {
      after_text = true;
      continue;
    }
    const std::string name = item["SpecialToken"]["id"].string();
    const JsonField ids = part["special_tokens"][name.c_str()]["ids"];
    for (std::size_t k = 0; k < ids.array_size(); ++k) {
      (after_text ? spec.suffix : spec.prefix).push_back(ids.at(k).token_id());
    }
  }
}

void read_post_processor(const JsonField& field, TokenizerSpec& spec) {
  for_each_part(field, "processors", [&](const JsonField& part) {
    const std::string& type = part["type"].string();
    if (type == "TemplateProcessing") return read_template(part, spec);
    if (type != "ByteLevel") unsupported(part, printable(type));  // ByteLevel moves offsets only
  });
}

void check_byte_level_decoder(const JsonField& field) {
  for_each_part(field, "decoders", [&](const JsonField& part) {
    if (part["type"].string() != "ByteLevel") unsupported(part, printable(part["type"].string()));
  });
}

void check_space_sign(const JsonField& part, const std::string& sign, const std::string& becomes) {
  if (sign != kSpaceSign || becomes != " ") unsupported(part, "anything but U+2581 for a space");
}

// One space at the beginning, or nothing.
bool strips_one_space(const JsonField& part) {
  const nlohmann::json &start = part["start"].value(), &stop = part["stop"].value();
  if (part["content"].string() != " " || start != 1 || stop != 0) {
    unsupported(part, "anything but one space at the beginning");
  }
  return true;
}

// What winnow does with every token is the usual sequence Replace, ByteFallback, Fuse, Strip. Metaspace takes
// all signs off the first token, where winnow takes one: the others were spaces in the text.
void read_character_decoder(const JsonField& field, TokenizerSpec& spec) {
  if (field.is_null()) unsupported(field, "null, without ByteLevel,");
  for_each_part(field, "decoders", [&](const JsonField& part) {
    const std::string& type = part["type"].string();
    if (type == "Replace") {
      check_space_sign(part, plain_pattern(part["pattern"]), part["content"].string());
    } else if (type == "Metaspace") {
      check_space_sign(part, part["replacement"].string(), " ");
      spec.drops_leading_space = part["prepend_scheme"].string_or("always") != "never";
    } else if (type == "Strip") {
      spec.drops_leading_space = strips_one_space(part);
    } else if (type != "ByteFallback" && type != "Fuse") {
      unsupported(part, printable(type));
    }
  });
}

void read_decoder(const JsonField& field, TokenizerSpec& spec) {
  if (spec.bpe.alphabet == AlphabetKind::kBytes) return check_byte_level_decoder(field);
  read_character_decoder(field, spec);
}

}  // namespace

TokenizerSpec spec_from_tokenizer_json(std::string_view text, const std::string& source) {
  const TokenJson json = read_token_json(text, TokenJsonLayout::kTokenizerJson, source);
  const JsonField root(json.rest, source + ": ");
  const JsonField model = root["model"];
  if (!json.has_vocab) fail(ErrorCode::kBadFormat, "{} is missing or no object", model["vocab"].where());
  TokenizerSpec spec;
  spec.source = source;
  spec.added = read_added_tokens(root["added_tokens"]);
  spec.vocabulary = read_vocabulary(json, spec.added, source);
  spec.bpe = read_options(model, *spec.vocabulary);
  spec.merges = resolve_merges(json, *spec.vocabulary, source);
  read_normalizer(root["normalizer"], spec.normalizer);
  normalise_added(spec);
  read_pretokenizer(root["pre_tokenizer"], spec);
  read_post_processor(root["post_processor"], spec);
  read_decoder(root["decoder"], spec);
  return spec;
}

}  // namespace winnow
