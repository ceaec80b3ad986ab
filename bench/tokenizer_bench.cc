// Tokenizer speed. Named by environment variables, each skipped without: WINNOW_SHARED_DATA (a folder with
// tokenizers/ and text/wikitext2-test.txt), WINNOW_TEST_MODEL (a GGUF file). The numbers to hold against are
// those of `scripts/make_tokenizer_golden.py speed`: the `tokenizers` package on the same text and one
// thread.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "tokenizer/tokenizer.h"

namespace {

std::string shared_file(const std::string& name) {
  const char* folder = std::getenv("WINNOW_SHARED_DATA");
  return folder == nullptr ? "" : std::string(folder) + "/" + name;
}

std::string model_file() {
  const char* path = std::getenv("WINNOW_TEST_MODEL");
  return path == nullptr ? "" : path;
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void encode_wikitext(benchmark::State& state, const std::string& path) {
  const std::string text = read_file(shared_file("text/wikitext2-test.txt"));
  if (text.empty() || !std::filesystem::exists(path)) return state.SkipWithError("no data");
  const auto tokenizer = winnow::open_tokenizer(path);
  std::size_t tokens = 0;
  for (auto _ : state) tokens = tokenizer->encode(text, /*parse_special=*/true).size();
  state.SetBytesProcessed(static_cast<std::int64_t>(text.size()) * state.iterations());
  state.counters["tokens"] = static_cast<double>(tokens);
}

// A tokenizer's first text: no word is cached yet.
void encode_first(benchmark::State& state, const std::string& path) {
  const std::string text = read_file(shared_file("text/wikitext2-test.txt"));
  if (text.empty() || !std::filesystem::exists(path)) return state.SkipWithError("no data");
  for (auto _ : state) {
    state.PauseTiming();
    auto tokenizer = winnow::open_tokenizer(path);
    state.ResumeTiming();
    benchmark::DoNotOptimize(tokenizer->encode(text, /*parse_special=*/true));
    state.PauseTiming();
    tokenizer.reset();
    state.ResumeTiming();
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(text.size()) * state.iterations());
}

void encode_run(benchmark::State& state, const std::string& path) {
  if (!std::filesystem::exists(path)) return state.SkipWithError("no data");
  const auto tokenizer = winnow::open_tokenizer(path);
  const std::string text(std::size_t{1} << 20, 'a');
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer->encode(text, /*parse_special=*/true));
  state.SetBytesProcessed(static_cast<std::int64_t>(text.size()) * state.iterations());
}

void open(benchmark::State& state, const std::string& path) {
  if (!std::filesystem::exists(path)) return state.SkipWithError("no data");
  for (auto _ : state) benchmark::DoNotOptimize(winnow::open_tokenizer(path));
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  const std::pair<const char*, std::string> models[] = {
      {"gpt2", shared_file("tokenizers/gpt2-vocab.json")},
      {"qwen3", shared_file("tokenizers/qwen3-tokenizer.json")},
      {"smollm2", model_file()},
  };
  for (const auto& [name, path] : models) {
    const std::string suffix = std::string("/") + name;
    const auto add = [&, p = path](const char* what, void (*run)(benchmark::State&, const std::string&)) {
      benchmark::RegisterBenchmark((what + suffix).c_str(), run, p)->Unit(benchmark::kMillisecond);
    };
    add("encode_wikitext", encode_wikitext);
    add("encode_first", encode_first);
    add("encode_run_of_a", encode_run);
    add("open", open);
  }
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
