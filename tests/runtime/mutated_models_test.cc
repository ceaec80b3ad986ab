// 1,000 damaged model files: each ends in an Error, or is still a model that answers. None crashes, and what
// was cut short is always an Error.
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <random>
#include <string>

#include "core/error.h"
#include "runtime/session.h"
#include "support/scratch.h"

namespace winnow {
namespace {

namespace fs = std::filesystem;

class Mutator {
 public:
  explicit Mutator(std::uint64_t seed) : random_(seed) {}

  std::string cut(const std::string& bytes) { return bytes.substr(0, below(bytes.size() - 2)); }

  // Up to four places within the first `size` bytes: a byte, a flipped bit, a number at an end of its range,
  // a stretch left out, doubled or exchanged for another.
  std::string damage(std::string bytes, std::size_t size) {
    for (std::size_t i = 0, places = 1 + below(4); i < places; ++i) {
      const std::size_t place = below(std::min(size, bytes.size()) - 8);
      switch (below(6)) {
        case 0: bytes[place] = static_cast<char>(below(256)); break;
        case 1: bytes[place] = static_cast<char>(bytes[place] ^ (1 << below(8))); break;
        case 2: set_number(bytes, place); break;
        case 3: bytes.erase(place, 1 + below(16)); break;
        case 4: bytes.insert(place, bytes.substr(place, 1 + below(16))); break;
        default: bytes.replace(place, 8, bytes.substr(below(std::min(size, bytes.size()) - 8), 8));
      }
    }
    return bytes;
  }

 private:
  std::size_t below(std::size_t bound) { return static_cast<std::size_t>(random_() % bound); }

  void set_number(std::string& bytes, std::size_t place) {
    constexpr std::uint64_t kNumbers[] = {0,          1,           0x7f,       0xff,  0x7fffffff,
                                          0xffffffff, 0x100000000, ~0ull >> 1, ~0ull, 1ull << 63};
    const std::uint64_t number = kNumbers[below(std::size(kNumbers))];
    const std::size_t width = std::size_t{1} << below(4);
    for (std::size_t i = 0; i < width; ++i) bytes[place + i] = static_cast<char>(number >> (8 * i));
  }

  std::mt19937_64 random_;
};

struct Outcomes {
  int errors = 0, models = 0;
};

// Opens the model and lets it read and write a little.
void try_model(const std::string& path, Outcomes& outcomes) {
  try {
    const auto engine = Engine::open({.model = path, .random_weights = "", .threads = 1, .progress = {}});
    Session session(*engine);
    const auto tokens = engine->tokenizer().encode("wind and corn", /*parse_special=*/true);
    session.prefill(tokens, {},
                    {.reserve_tokens = 1,
                     .progress = {},
                     .cancelled = {},
                     .all_logits = {},
                     .observe_attention = {},
                     .stage_scores = {},
                     .on_stage = {}});
    session.decode(0);
    ++outcomes.models;
  } catch (const Error&) {
    ++outcomes.errors;
  }
}

std::string model(const std::string& name) { return WINNOW_TEST_DATA "/models/" + name; }

TEST(MutatedModels, Gguf) {
  const Scratch scratch;
  Mutator mutator(/*seed=*/9);
  Outcomes cut, damaged;
  for (const char* name : {"tiny-qwen3.gguf", "tiny-llama3.gguf"}) {
    const std::string bytes = Scratch::read(model(name));
    constexpr std::size_t kDirectory = 8'000;  // metadata, vocabulary and the list of tensors
    for (int i = 0; i < 100; ++i) try_model(scratch.write("model.gguf", mutator.cut(bytes)), cut);
    for (int i = 0; i < 200; ++i)
      try_model(scratch.write("model.gguf", mutator.damage(bytes, kDirectory)), damaged);
  }
  EXPECT_EQ(cut.models, 0);
  EXPECT_EQ(damaged.errors + damaged.models, 400);
  EXPECT_GT(damaged.errors, 350);  // the others have another number or name somewhere, and run
}

TEST(MutatedModels, HuggingFaceFolder) {
  const Scratch scratch;
  Mutator mutator(/*seed=*/10);
  const std::string folder = scratch.file("model");
  Outcomes cut, damaged;
  for (const char* name : {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"}) {
    fs::remove_all(folder);
    fs::copy(model("tiny-llama3"), folder);
    const std::string path = folder + "/" + name, bytes = Scratch::read(path);
    for (int i = 0; i < 30; ++i) {
      scratch.write("model/" + std::string(name), mutator.cut(bytes));
      try_model(folder, cut);
    }
    for (int i = 0; i < 70; ++i) {
      scratch.write("model/" + std::string(name), mutator.damage(bytes, 10'000));
      try_model(folder, damaged);
    }
  }
  EXPECT_EQ(cut.models, 0);
  EXPECT_EQ(damaged.errors + damaged.models, 280);
  EXPECT_GT(damaged.errors, 200);
}

}  // namespace
}  // namespace winnow
