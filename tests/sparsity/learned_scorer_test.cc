// The learned scorer against PyTorch (scripts/make_scorer_golden.py), and what its file may not be.
#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "formats/safetensors.h"
#include "sparsity/scorer.h"
#include "sparsity/token_pruner.h"
#include "support/backend_test_util.h"
#include "support/format_testing.h"

namespace winnow::testing {
namespace {

constexpr std::int64_t kHidden = 24, kRows = 300;

std::string golden_file(const char* name) { return std::string(WINNOW_TEST_DATA "/scorers/") + name; }

TokenPolicy learned(const std::string& file, std::vector<std::int64_t> layers = {4, 7}) {
  TokenPolicy policy;
  policy.scorer = ScorerKind::kLearned;
  policy.pool = 1;
  policy.scorer_file = file;
  for (const std::int64_t layer : layers) policy.stages.push_back({layer, 0.5, std::nullopt});
  return policy;
}

std::vector<float> floats(const SafetensorsFile& file, const std::string& name) {
  const SafetensorsTensor* tensor = file.find(name);
  if (tensor == nullptr) throw std::runtime_error("golden file lacks " + name);
  std::vector<float> values(tensor->data.size() / sizeof(float));
  std::memcpy(values.data(), tensor->data.data(), tensor->data.size());
  return values;
}

// Both sides round the inner activations to BF16, at times to neighbouring numbers: an ulp of 2^-7 each,
// through six weights of scale 0.4.
constexpr Tolerance kBf16Scores = {2e-2, 0.0};

void compare_with_pytorch(Backend& backend) {
  SCOPED_TRACE(backend.description());
  const SafetensorsFile cases(golden_file("cases.safetensors"));
  const bool bf16 = backend.precision() == Precision::kBF16;
  const TestMatrix hidden(backend, DType::kF32, kRows, kHidden, floats(cases, "hidden"));
  const auto scorer = make_scorer(learned(golden_file("scorer.safetensors")), kHidden, backend);
  EXPECT_TRUE(scorer->needs_hidden());
  for (const std::int64_t layer : {4, 7}) {
    for (const std::int64_t rows : {std::int64_t{1}, std::int64_t{255}, std::int64_t{257}, kRows}) {
      ScorerInput input;
      input.layer = layer;
      input.hidden = hidden.view().slice(0, rows);
      std::vector<float> scores(static_cast<std::size_t>(rows));
      scorer->score(input, scores);
      auto expected = floats(cases, fmt::format("stage.{}.{}", layer, name(backend.precision())));
      expected.resize(scores.size());
      expect_close(scores, expected, bf16 ? kBf16Scores : kLinear);
    }
  }
}

TEST(LearnedScorer, AgreesWithPyTorch) {
  for (const Precision precision : kPrecisions) {
    compare_with_pytorch(*make_reference_backend(precision));
    compare_with_pytorch(*make_cpu_backend(precision, 2));
  }
}

TEST(LearnedScorer, PoolsWhereThePolicySaysSo) {
  const auto backend = make_reference_backend(Precision::kF32);
  const SafetensorsFile cases(golden_file("cases.safetensors"));
  const TestMatrix hidden(*backend, DType::kF32, kRows, kHidden, floats(cases, "hidden"));
  ScorerInput input;
  input.layer = 4;
  input.hidden = hidden.view();
  TokenPolicy policy = learned(golden_file("scorer.safetensors"));
  std::vector<float> plain(kRows), pooled(kRows);
  make_scorer(policy, kHidden, *backend)->score(input, plain);
  policy.pool = 15;
  make_scorer(policy, kHidden, *backend)->score(input, pooled);
  max_pool(plain, 15);
  EXPECT_EQ(pooled, plain);
}

struct Tensor {
  std::string name;
  std::vector<std::int64_t> shape;
  std::string dtype = "F32";
};

// All elements are zero.
std::string safetensors(const std::vector<Tensor>& tensors) {
  nlohmann::json header = nlohmann::json::object();
  std::int64_t offset = 0;
  for (const Tensor& tensor : tensors) {
    std::int64_t bytes = tensor.dtype == "F32" ? 4 : 2;
    for (const std::int64_t extent : tensor.shape) bytes *= extent;
    header[tensor.name] = {
        {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  const std::string text = header.dump();
  const std::uint64_t length = text.size();
  std::string file(sizeof(length), '\0');
  std::memcpy(file.data(), &length, sizeof(length));
  return file + text + std::string(static_cast<std::size_t>(offset), '\0');
}

std::vector<Tensor> stage_of(std::int64_t layer) {
  const std::string prefix = fmt::format("stage.{}.", layer);
  return {{prefix + "fc1.weight", {2, 8}},
          {prefix + "fc1.bias", {2}},
          {prefix + "fc2.weight", {1, 2}},
          {prefix + "fc2.bias", {1}}};
}

class LearnedScorerFile : public ::testing::Test {
 protected:
  void expect_refused(const std::vector<Tensor>& tensors, std::vector<std::int64_t> layers,
                      std::string_view part) {
    const std::string file = folder_.write("s.safetensors", safetensors(tensors));
    const auto make = [&] { make_scorer(learned(file, layers), 8, *backend_); };
    expect_error(ErrorCode::kBadArgument, part, make);
    expect_error(ErrorCode::kBadArgument, file, make);
  }

  TemporaryFolder folder_;
  std::unique_ptr<Backend> backend_ = make_reference_backend(Precision::kF32);
};

TEST_F(LearnedScorerFile, MayHaveMoreStagesThanThePolicy) {
  auto tensors = stage_of(3);
  for (Tensor& tensor : stage_of(5)) tensors.push_back(tensor);
  const std::string file = folder_.write("s.safetensors", safetensors(tensors));
  EXPECT_NO_THROW(make_scorer(learned(file, {5}), 8, *backend_));
  EXPECT_NO_THROW(make_scorer(learned(file, {}), 8, *backend_));
}

TEST_F(LearnedScorerFile, MissingStage) {
  auto tensors = stage_of(3);
  for (Tensor& tensor : stage_of(10)) tensors.push_back(tensor);
  expect_refused(tensors, {3, 6},
                 "tensor stage.6.fc1.weight is missing; the file has scorers for the stages at layers 10, 3");
  expect_refused({}, {3}, "layers (none)");
}

TEST_F(LearnedScorerFile, MissingTensor) {
  auto tensors = stage_of(3);
  tensors.pop_back();
  expect_refused(tensors, {3}, "tensor stage.3.fc2.bias is missing");
}

TEST_F(LearnedScorerFile, WrongShape) {
  auto tensors = stage_of(3);
  tensors[0].shape = {2, 9};
  expect_refused(
      tensors, {3},
      "tensor stage.3.fc1.weight is F32 [2, 9], expected F32 [2, 8] for a model whose hidden size is 8");
  tensors = stage_of(3);
  tensors[3].shape = {};
  expect_refused(tensors, {3}, "tensor stage.3.fc2.bias is F32 [], expected F32 [1]");
}

TEST_F(LearnedScorerFile, WrongType) {
  auto tensors = stage_of(3);
  tensors[2].dtype = "BF16";
  expect_refused(tensors, {3}, "tensor stage.3.fc2.weight is BF16 [1, 2], expected F32 [1, 2]");
}

TEST_F(LearnedScorerFile, MissingOrDamaged) {
  const std::string missing = folder_.file("none.safetensors");
  expect_error(ErrorCode::kIo, missing, [&] { make_scorer(learned(missing, {3}), 8, *backend_); });
  const std::string damaged = folder_.write("d.safetensors", "no safetensors");
  expect_error(ErrorCode::kBadFormat, damaged, [&] { make_scorer(learned(damaged, {3}), 8, *backend_); });
  expect_error(ErrorCode::kBadArgument, "learned=FILE", [&] { make_scorer(learned("", {3}), 8, *backend_); });
  expect_error(ErrorCode::kUnsupported, "hidden size of 4 or more",
               [&] { make_scorer(learned(missing, {3}), 3, *backend_); });
}

}  // namespace
}  // namespace winnow::testing
