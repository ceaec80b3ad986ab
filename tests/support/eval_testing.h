// What the tests of eval share: the tiny model, texts long enough for it.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>

#include "eval/eval_text.h"
#include "eval/prompt_encoder.h"
#include "runtime/engine.h"
#include "support/scratch.h"

namespace winnow::eval_test {

// Six layers, a context of 512 tokens, a ChatML template. `device` "reference" has every operation.
inline const Engine& tiny_engine(const std::string& device = "cpu") {
  static std::map<std::string, std::unique_ptr<Engine>> opened;
  auto& slot = opened[device];
  if (!slot) {
    slot = Engine::open({.model = WINNOW_TEST_DATA "/models/tiny-llama",
                         .random_weights = "",
                         .device = device,
                         .precision = Precision::kF32,
                         .threads = 2,
                         .progress = {}});
  }
  return *slot;
}

// Sentences whose words differ enough for windows to differ. No digits: a number in it is a needle's.
inline EvalText some_text(int sentences = 400) {
  EvalText text{"some.txt", ""};
  const char* words[] = {"wind", "corn", "mill", "river", "bell", "the", "and", "of", "a", "stone", "turns"};
  unsigned state = 7;
  for (int i = 0; i < sentences; ++i) {
    for (int w = 0; w < 7; ++w) {
      state = state * 1664525u + 1013904223u;
      text.content += std::string(w == 0 ? "" : " ") + words[(state >> 16) % 11];
    }
    text.content += ".\n";
  }
  return text;
}

}  // namespace winnow::eval_test
