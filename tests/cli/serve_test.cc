// winnow serve and report as programs; what they do is tested in tests/server and tests/report.
#include "running_program.h"

namespace winnow::cli_test {
namespace {

TEST(ServeCli, RefusesWhatIsNotSafe) {
  expect_error(run_program(on_tiny({"serve"}, {"--host", "0.0.0.0", "--port", "0"})), 1, "give a key");
  expect_error(run_program(on_tiny({"serve"}, {"--api-key-file", "/nowhere/key"})), 1, "/nowhere/key");
  expect_error(run_program(on_tiny({"serve"}, {"--session-folder", "/nowhere"})), 1, "/nowhere");
  const Scratch sessions;
  expect_error(run_program(on_tiny({"serve"}, {"--session-folder", sessions.file("."), "--devices", "cpu,cpu",
                                               "--port", "0"})),
               2, "--session-folder");
  expect_error(run_program({"serve"}), 2, "name a model");
  expect_error(run_program({"serve", "--random-weights", "tiny"}), 1, "");
}

// Starts, says where it listens, and ends on SIGTERM with exit code 0.
TEST(ServeCli, EndsOnSigterm) {
  RunningProgram server(on_tiny({"serve"}, {"--port", "0"}));
  const auto listens = [&] { return server.errors().find("http://127.0.0.1:") != std::string::npos; };
  ASSERT_TRUE(server.runs_until(listens)) << server.errors();
  EXPECT_NE(server.errors().find("tiny-llama at http://127.0.0.1:"), std::string::npos) << server.errors();
  server.send(SIGTERM);
  EXPECT_EQ(server.wait().code, 0) << server.errors();
}

TEST(ReportCli, FromRunToPage) {
  const Scratch scratch;
  const std::string policy = scratch.write("policy.json", kTwoStages);
  const Result run = run_program(
      on_tiny({"run"}, {"-p", long_text(60), "-n", "4", "--policy", policy, "--json", "--positions"}));
  ASSERT_EQ(run.code, 0) << run.err;
  const json answer = json::parse(run.out);
  EXPECT_EQ(answer["pieces"].size(), answer["prompt_tokens"]);
  EXPECT_EQ(answer["stages"][1]["kept_positions"].size(), answer["kept_tokens"]);
  const std::string page = scratch.file("report.html");
  const Result report = run_program({"report", scratch.write("answer.json", run.out), policy, "-o", page});
  ASSERT_EQ(report.code, 0) << report.err;
  EXPECT_NE(read_file(page).find("<span class=\"d2\">"), std::string::npos);
  expect_error(run_program({"report", scratch.write("odd.json", "{}"), "-o", page}), 1,
               "odd.json: is no result");
  expect_error(run_program({"report", page + ".missing", "-o", page}), 1, "cannot open");
  expect_error(run_program({"report", "-o", page}), 2, "FILES");
}

}  // namespace
}  // namespace winnow::cli_test
