#include "tokenizer/chat_template.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "tokenizer/jinja_canonical.h"

namespace winnow {
namespace {

TEST(CanonicalTemplate, UnifiesSpacingQuotesAndSubscripts) {
  EXPECT_EQ(
      canonical_template("{%- if a ['b'] == \"c d\" and not x -%}\n  {{ m['role']+'\n' }}\n{% endif %}\n"),
      "{%if a.b=='c d'and not x%}{{m.role+'\\n'}}\n{%endif%}");
  EXPECT_EQ(canonical_template("a {{ x }} b"), "a {{x}} b");
  EXPECT_EQ(canonical_template("{{ \"it's\" }}"), "{{'it\\'s'}}");
  EXPECT_EQ(canonical_template("{% if x %}\n  {% endif %}"), "{%if x%}{%endif%}");
  EXPECT_EQ(canonical_template("a\n  {#- said -#}\n\n b"), "ab");
  EXPECT_EQ(canonical_template("a\n  {# {{ x }} #}\nb"), "a\nb");
}

TEST(CanonicalTemplate, SurvivesBrokenTemplates) {
  for (const char* text : {"", "{", "{{", "{%", "{{-", "{{ 'x", "{% a -", "{{ m['", "{{ \\ }}", "{{ 'a\\",
                           "}}", "{#", "{#-", "{#}", "{#-#}"}) {
    canonical_template(text);
    EXPECT_FALSE(ChatTemplate::recognise(text)) << text;
  }
}

const std::string kSmolLm =
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ "
    "'<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ "
    "'<|im_start|>assistant\n' }}{% endif %}";

TEST(ChatTemplate, ReadsTheDefaultSystemMessage) {
  const auto found = ChatTemplate::recognise(kSmolLm);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->default_system(), "Be kind.");
}

TEST(ChatTemplate, NearMissesAreUnknown) {
  const auto changed = [](std::string from, const std::string& to) {
    std::string text = kSmolLm;
    text.replace(text.find(from), from.size(), to);
    return text;
  };
  EXPECT_FALSE(ChatTemplate::recognise(changed("'<|im_start|>assistant\n'", "'<|im_start|>model\n'")));
  EXPECT_FALSE(ChatTemplate::recognise(changed("{% endfor %}", "{% endfor %}\n\n")));
  EXPECT_FALSE(ChatTemplate::recognise(changed("message['content']", "message['content'] | trim")));
  EXPECT_FALSE(ChatTemplate::recognise(changed("Be kind.", "' + x + '")));
  EXPECT_FALSE(ChatTemplate::recognise(kSmolLm + "x"));
  EXPECT_FALSE(
      ChatTemplate::recognise("{{ bos_token }}{% for m in messages %}[INST]{{ m.content }}{% endfor %}"));
  EXPECT_TRUE(ChatTemplate::recognise(changed("Be kind.", "")));
}

TEST(ChatTemplate, RefusesWhatItCannotRender) {
  const auto chat = ChatTemplate::recognise(kSmolLm);
  ASSERT_TRUE(chat);
  EXPECT_THROW(chat->render({}, true), Error);
  EXPECT_THROW(chat->render({{"tool", "x"}}, true), Error);
}

}  // namespace
}  // namespace winnow
