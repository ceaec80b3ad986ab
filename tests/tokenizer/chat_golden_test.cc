// Conversations against transformers' apply_chat_template, with a tokenizer of each family
// (scripts/make_tokenizer_golden.py).
#include <algorithm>
#include <set>

#include "core/error.h"
#include "tokenizer/bpe_tokenizer.h"
#include "tokenizer/loaders.h"
#include "tokenizer_test_data.h"

namespace winnow {
namespace {

using Json = nlohmann::json;

std::vector<ChatMessage> messages_of(const Json& conversations, const std::string& title) {
  std::vector<ChatMessage> messages;
  for (const Json& conversation : conversations) {
    if (conversation["title"] != title) continue;
    for (const Json& m : conversation["messages"]) messages.push_back({m["role"], m["content"]});
  }
  return messages;
}

// tokenizer.json of the tiny tokenizer or of a variant of the small SentencePiece models.
Json base_tokenizer(const std::string& name) {
  if (name == "tiny") return read_golden("tiny/tokenizer.json");
  const Json golden = read_golden("sp-variants.json");
  for (const Json& variant : golden["variants"]) {
    if (variant["name"] != name) continue;
    Json json = variant["parts"];
    json["model"] = golden["models"][variant["model"].get<std::string>()];
    return json;
  }
  ADD_FAILURE() << "no tokenizer " << name;
  return {};
}

BpeTokenizer make_tokenizer(const Json& family, const std::string& jinja) {
  Json json = base_tokenizer(family["base"]);
  json["added_tokens"] = family["added_tokens"];
  TokenizerSpec spec = spec_from_tokenizer_json(json.dump(), family["base"]);
  spec.chat_template = jinja;
  if (!family["bos"].is_null()) spec.begin_of_text = spec.vocabulary->find(family["bos"].get<std::string>());
  if (!family["eos"].is_null()) spec.end_of_text = spec.vocabulary->find(family["eos"].get<std::string>());
  return BpeTokenizer(std::move(spec));
}

std::string text_of(const std::vector<ChatPiece>& pieces, const Json& family) {
  std::string text;
  for (const ChatPiece& piece : pieces) {
    if (piece.kind == ChatPiece::Kind::kBeginOfText) {
      text += family["bos"];
    } else if (piece.kind == ChatPiece::Kind::kEndOfText) {
      text += family["eos"];
    } else {
      text += piece.text;
    }
  }
  return text;
}

std::size_t count_control(const Tokenizer& tokenizer, const std::vector<TokenId>& ids) {
  return static_cast<std::size_t>(
      std::count_if(ids.begin(), ids.end(), [&](TokenId id) { return tokenizer.is_control(id); }));
}

// Of these the reference makes control tokens out of what a person wrote; winnow must not.
const std::set<std::string> kWithMarks = {"control tokens inside", "marks inside"};

class ChatGolden : public testing::Test {
 protected:
  // All conversations in one template.
  void check_template(const std::string& name, const Json& known) {
    const Json& family = golden_["families"][known["family"].get<std::string>()];
    const auto chat = ChatTemplate::recognise(known["jinja"].get<std::string>());
    ASSERT_TRUE(chat) << name;
    const BpeTokenizer tokenizer = make_tokenizer(family, known["jinja"]);
    int rows = 0;
    for (const Json& row : golden_["rendered"]) {
      if (row["template"] != name) continue;
      SCOPED_TRACE(name + ", " + row["title"].get<std::string>());
      check_row(row, *chat, tokenizer, family);
      ++rows;
    }
    EXPECT_GT(rows, 20) << name;
  }

  void check_row(const Json& row, const ChatTemplate& chat, const Tokenizer& tokenizer, const Json& family) {
    const auto messages = messages_of(golden_["conversations"], row["title"]);
    if (row.contains("refused")) {
      EXPECT_THROW(tokenizer.encode_chat(messages, row["prompt"]), Error);
      return;
    }
    EXPECT_EQ(text_of(chat.render(messages, row["prompt"]), family), row["text"].get<std::string>());
    const auto ids = tokenizer.encode_chat(messages, row["prompt"]);
    if (!kWithMarks.contains(row["title"])) {
      EXPECT_EQ(ids, row["ids"].get<std::vector<TokenId>>());
      return;
    }
    std::vector<ChatMessage> harmless = messages;
    for (ChatMessage& message : harmless) message.content = "x";
    EXPECT_EQ(count_control(tokenizer, ids),
              count_control(tokenizer, tokenizer.encode_chat(harmless, row["prompt"])));
  }

  const Json golden_ = read_golden("chat.json");
};

TEST_F(ChatGolden, EveryTemplateOnEveryConversation) {
  EXPECT_GE(golden_["templates"].size(), 20u);
  for (const auto& [name, known] : golden_["templates"].items()) check_template(name, known);
}

TEST_F(ChatGolden, EveryFormIsTestedAndNoOtherTemplateIsTaken) {
  for (const auto& [name, known] : golden_["templates"].items()) {
    const std::string jinja = known["jinja"];
    EXPECT_FALSE(ChatTemplate::recognise(jinja + "x")) << name;
    EXPECT_FALSE(ChatTemplate::recognise("x" + jinja)) << name;
    EXPECT_FALSE(ChatTemplate::recognise(jinja.substr(0, jinja.size() / 2))) << name;
  }
}

// Every mark a family's files know, written by any of the speakers, in every template.
TEST_F(ChatGolden, WhatSpeakersWriteNeverBecomesAControlToken) {
  for (const auto& [name, known] : golden_["templates"].items()) {
    SCOPED_TRACE(name);
    const Json& family = golden_["families"][known["family"].get<std::string>()];
    const BpeTokenizer tokenizer = make_tokenizer(family, known["jinja"]);
    std::string marks;
    for (const Json& token : family["added_tokens"]) marks += "x" + token["content"].get<std::string>() + "x";
    const std::vector<ChatMessage> harmless = {
        {"system", "x"}, {"user", "x"}, {"assistant", "x"}, {"user", "x"}};
    const bool takes_system = [&] {
      try {
        tokenizer.encode_chat(harmless, true);
        return true;
      } catch (const Error&) {
        return false;
      }
    }();
    for (std::size_t speaker = takes_system ? 0 : 1; speaker < harmless.size(); ++speaker) {
      SCOPED_TRACE(harmless[speaker].role);
      std::vector<ChatMessage> messages = harmless;
      messages[speaker].content = marks;
      std::vector<ChatMessage> plain = harmless;
      if (!takes_system) messages.erase(messages.begin()), plain.erase(plain.begin());
      const auto ids = tokenizer.encode_chat(messages, true);
      EXPECT_EQ(count_control(tokenizer, ids), count_control(tokenizer, tokenizer.encode_chat(plain, true)));
    }
  }
}

// Marks that the files call ordinary added tokens.
TEST_F(ChatGolden, MarksOfATemplateAreControlTokens) {
  const Json& family = golden_["families"]["gemma"];
  const BpeTokenizer tokenizer = make_tokenizer(family, golden_["templates"]["gemma"]["jinja"]);
  const auto turn = tokenizer.encode("<end_of_turn>", /*parse_special=*/true);
  ASSERT_EQ(turn.size(), 1u);
  EXPECT_TRUE(tokenizer.is_control(turn[0]));
  EXPECT_GT(tokenizer.encode("<end_of_turn>", /*parse_special=*/false).size(), 1u);
  EXPECT_EQ(tokenizer.stop_tokens(), turn);
}

TEST_F(ChatGolden, MissingTokensAreNamed) {
  const auto error = [&](const std::string& family, const std::string& name) -> std::string {
    Json changed = golden_["families"][family];
    changed["bos"] = nullptr;
    try {
      make_tokenizer(changed, golden_["templates"][name]["jinja"]).encode_chat({{"user", "x"}}, true);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kBadFormat);
      return e.what();
    }
    return "no error";
  };
  EXPECT_EQ(error("llama2", "llama 2"),
            "prepend: the chat template needs the begin-of-text token, which the files do not name");
  EXPECT_EQ(error("llama2", "plain"),
            "prepend: the chat template needs <|im_start|>, which is no control token here");
}

TEST_F(ChatGolden, RefusalsNameRoleAndRule) {
  const BpeTokenizer tokenizer =
      make_tokenizer(golden_["families"]["gemma"], golden_["templates"]["gemma"]["jinja"]);
  try {
    tokenizer.encode_chat({{"system", "x"}, {"user", "y"}}, true);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadArgument);
    EXPECT_EQ(
        std::string(error.what()),
        "this model's chat template cannot write a message of the role 'system' here: it knows no system "
        "message; put it into the user's");
  }
}

}  // namespace
}  // namespace winnow
