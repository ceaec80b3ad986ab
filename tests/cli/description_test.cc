// What the program says about itself: completion, the manual, the schemas of its JSON.
#include <gtest/gtest.h>

#include <cstdlib>
#include <regex>
#include <set>

#include "cli/program.h"

namespace winnow::cli_test {
namespace {

const std::vector<std::string> kCommands{"",
                                         "inspect",
                                         "run",
                                         "batch",
                                         "policy",
                                         "policy check",
                                         "profile",
                                         "profile prefill",
                                         "profile end2end",
                                         "sparsity",
                                         "eval",
                                         "calibrate",
                                         "train",
                                         "report",
                                         "serve",
                                         "completion",
                                         "manual"};

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream stream(text);
  return {std::istream_iterator<std::string>(stream), {}};
}

std::string help_of(const std::string& command) {
  std::vector<std::string> arguments = words_of(command);
  arguments.push_back("--help");
  return run_program(arguments).out;
}

// Of the lines of --help that begin an option: "  -m,--model TEXT".
std::set<std::string> options_in(const std::string& help) {
  std::set<std::string> options;
  const std::regex name("(^|,)(-[-A-Za-z0-9]+)");
  for (const std::string& line : lines_of(help)) {
    if (!line.starts_with("  -")) continue;
    const std::string names = line.substr(2, line.find(' ', 2) - 2);
    for (std::sregex_iterator it(names.begin(), names.end(), name), end; it != end; ++it)
      options.insert((*it)[2]);
  }
  return options;
}

// The subcommands that --help lists.
std::set<std::string> subcommands_in(const std::string& help) {
  std::set<std::string> names;
  bool listed = false;
  for (const std::string& line : lines_of(help)) {
    if (line == "Subcommands:")
      listed = true;
    else if (!line.starts_with("  "))
      listed = false;
    else if (listed && line[2] != ' ')
      names.insert(line.substr(2, line.find(' ', 2) - 2));
  }
  return names;
}

TEST(DescriptionTest, TheListOfCommandsIsComplete) {
  std::set<std::string> known(kCommands.begin(), kCommands.end());
  for (const std::string& command : kCommands) {
    for (const std::string& sub : subcommands_in(help_of(command))) {
      EXPECT_TRUE(known.contains(command.empty() ? sub : command + " " + sub)) << command << " " << sub;
    }
  }
}

// What bash offers after `line`; "|" separates words.
std::string offered_by_bash(const std::string& line) {
  const Scratch scratch;
  scratch.write("winnow.bash", run_program({"completion", "bash"}).out);
  scratch.write("complete.sh",
                "source " + scratch.file("winnow.bash") + "\nCOMP_WORDS=(" + line +
                    ")\nCOMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n_winnow\necho \"${COMPREPLY[@]}\" > " +
                    scratch.file("out") + "\n");
  EXPECT_EQ(std::system(("bash " + scratch.file("complete.sh")).c_str()), 0);
  return " " + read_file(scratch.file("out")).substr(0) + " ";
}

TEST(CompletionTest, BashOffersEveryOptionOfEveryCommand) {
  for (const std::string& command : kCommands) {
    const std::string help = help_of(command), offered = offered_by_bash("winnow " + command + " ''");
    for (const std::string& option : options_in(help)) {
      EXPECT_NE((" " + offered).find(" " + option), std::string::npos)
          << command << " " << option << ": " << offered;
    }
    for (const std::string& sub : subcommands_in(help)) {
      EXPECT_NE(offered.find(sub), std::string::npos) << command << " " << sub;
    }
  }
}

TEST(CompletionTest, BashOffersValuesAndLeavesFilesToTheShell) {
  EXPECT_EQ(words_of(offered_by_bash("winnow run --prec")), std::vector<std::string>{"--precision"});
  EXPECT_EQ(words_of(offered_by_bash("winnow run --precision i")), std::vector<std::string>{"int8"});
  EXPECT_EQ(words_of(offered_by_bash("winnow train --target k")), std::vector<std::string>{"kvzap"});
  EXPECT_EQ(words_of(offered_by_bash("winnow profile pre")), std::vector<std::string>{"prefill"});
  EXPECT_TRUE(words_of(offered_by_bash("winnow run -f ''")).empty());
}

// A bare colon would begin another argument.
TEST(CompletionTest, ZshOffersValuesAndFiles) {
  const std::string zsh = run_program({"completion", "zsh"}).out;
  EXPECT_NE(zsh.find(R"zsh(:{_alternative "words\:value\:(bf16 f32 int8)" "files\:file\:_files"}')zsh"),
            std::string::npos);
}

// zsh and fish need not be here: every command and option is in their scripts.
TEST(CompletionTest, ZshAndFishKnowEveryOption) {
  const std::string zsh = run_program({"completion", "zsh"}).out,
                    fish = run_program({"completion", "fish"}).out;
  for (const std::string& command : kCommands) {
    const std::string help = help_of(command);
    const std::string function =
        std::regex_replace("_winnow" + (command.empty() ? "" : " " + command), std::regex(" "), "_") + "() {";
    const std::size_t begin = zsh.find("\n" + function);
    ASSERT_NE(begin, std::string::npos) << function;
    const std::string body = zsh.substr(begin, zsh.find("\n}\n", begin) - begin);
    for (const std::string& option : options_in(help)) {
      EXPECT_NE(body.find(option + "["), std::string::npos) << command << " " << option;
      const std::string flag =
          option.starts_with("--") ? " -l " + option.substr(2) : " -s " + option.substr(1);
      EXPECT_NE(fish.find(flag + " "), std::string::npos) << command << " " << option;
    }
    for (const std::string& sub : subcommands_in(help)) {
      EXPECT_NE(body.find("'" + sub + ":"), std::string::npos) << command << " " << sub;
      EXPECT_NE(fish.find(" -a " + sub + " "), std::string::npos) << command << " " << sub;
    }
  }
}

TEST(CompletionTest, AnotherShellIsBadUsage) { expect_error(run_program({"completion", "csh"}), 2, "csh"); }

TEST(ManualTest, NamesEveryCommandAndOption) {
  const std::string page = std::regex_replace(run_program({"manual"}).out, std::regex(R"(\\-)"), "-");
  EXPECT_TRUE(page.starts_with(".TH WINNOW 1"));
  for (const std::string& command : kCommands) {
    std::size_t begin = page.find(command.empty() ? ".SH OPTIONS" : ".SS winnow " + command + "\n");
    ASSERT_NE(begin, std::string::npos) << command;
    const std::string section = page.substr(begin, page.find("\n.S", begin + 1) - begin);
    for (const std::string& option : options_in(help_of(command))) {
      EXPECT_NE(section.find("\\fB" + option + "\\fR"), std::string::npos) << command << " " << option;
    }
  }
}

// ---- schemas (docs/json.md)

std::string schema_of(const std::string& text) {
  const json content = json::parse(text, nullptr, /*allow_exceptions=*/false);
  return content.is_object() && content.contains("schema") ? content["schema"].get<std::string>()
                                                           : "none: " + text;
}

TEST(SchemaTest, EveryJsonNamesItsSchema) {
  const Scratch scratch;
  const std::string policy = scratch.write("policy.json", kTwoStages), prompt = golden_text();
  const auto said = [](const std::vector<std::string>& arguments) {
    return schema_of(run_program(arguments).out);
  };
  EXPECT_EQ(said({"inspect", tiny_llama(), "--json"}), "winnow.inspect/1");
  EXPECT_EQ(said({"policy", "check", policy, "--json"}), "winnow.policy_check/1");
  EXPECT_EQ(said(on_tiny({"run"}, {"-p", prompt, "-n", "1", "--json", "--policy", policy, "--prune-log",
                                   scratch.file("log")})),
            "winnow.run/1");
  EXPECT_EQ(schema_of(lines_of(read_file(scratch.file("log"))).at(0)), "winnow.stage/1");
  EXPECT_EQ(said(on_tiny({"run"}, {"-p", prompt, "-n", "1", "--json", "--policy", policy, "--compare"})),
            "winnow.compare/1");
  run_program(on_tiny({"batch"}, {scratch.write("prompts", R"({"prompt": "corn", "max_tokens": 1})"), "-o",
                                  scratch.file("answers")}));
  EXPECT_EQ(schema_of(lines_of(read_file(scratch.file("answers"))).at(0)), "winnow.batch/1");
  run_program(on_tiny({"profile", "prefill"}, {"--lengths", "16", "--policies", "dense", "--repeat", "1",
                                               "-o", scratch.file("profile")}));
  EXPECT_EQ(schema_of(read_file(scratch.file("profile"))), "winnow.profile/1");
  EXPECT_EQ(said(on_tiny({"sparsity"}, {"--length", "32", "--end-to-end", "none", "--json"})),
            "winnow.sparsity/1");
  EXPECT_EQ(said(on_tiny({"eval"}, {"--tasks", "kl", "--policies", "dense", "--lengths", "300", "--windows",
                                    "1", "--plain", "--json"})),
            "winnow.eval/1");
}

// The names in src/cli/schemas.h and those described are the same.
TEST(SchemaTest, EverySchemaIsDescribed) {
  const std::string described = read_file(WINNOW_SOURCE "/docs/json.md"),
                    code = read_file(WINNOW_SOURCE "/src/cli/schemas.h");
  const std::regex name(R"(winnow\.[a-z_]+/[0-9]+)");
  std::size_t count = 0;
  for (std::sregex_iterator it(code.begin(), code.end(), name), end; it != end; ++it, ++count) {
    EXPECT_NE(described.find("`" + it->str() + "`"), std::string::npos) << it->str();
  }
  EXPECT_GE(count, 11u);
}

}  // namespace
}  // namespace winnow::cli_test
