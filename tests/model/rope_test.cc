// Frequencies of rotary embeddings against transformers (scripts/make_tiny_models.py), and the table by hand.
#include "model/rope.h"

#include <gtest/gtest.h>

#include <cmath>

#include "formats/hf_config.h"
#include "model/rope_config.h"
#include "support/format_testing.h"

namespace winnow {
namespace {

using nlohmann::json;

TEST(Rope, EveryScalingEqualsTransformers) {
  const json cases = json::parse(read_text(WINNOW_TEST_DATA "/models/rope.json"));
  ASSERT_EQ(cases.size(), 33u);
  for (const json& expected : cases) {
    SCOPED_TRACE(expected["rope_parameters"].dump() + " " + expected["head_dim"].dump());
    const json file = {{"model_type", "llama"},
                       {"max_position_embeddings", 131072},
                       {"rope_parameters", expected["rope_parameters"]}};
    const json config = parse_hf_config(file.dump(), "config.json");
    const std::string path = "config.json";
    const ConfigReader reader(path, config);
    const auto rotary_dim = static_cast<std::int64_t>(expected["head_dim"].get<double>() *
                                                      reader.number("partial_rotary_factor", 1.0));
    const RopeScaling scaling = read_rope_scaling(reader, rotary_dim);
    const std::vector<double> found = rope_frequencies(reader.number("rope_theta"), rotary_dim, scaling);
    ASSERT_EQ(found.size(), expected["frequencies"].size());
    for (std::size_t i = 0; i < found.size(); ++i) {
      const auto frequency = expected["frequencies"][i].get<double>();
      EXPECT_NEAR(found[i], frequency, 2e-6 * frequency) << i;  // transformers computes in float32
    }
    EXPECT_NEAR(scaling.attention_factor, expected["attention_factor"].get<double>(), 1e-12);
  }
}

TEST(Rope, TheTableHoldsTheAnglesOfEveryPosition) {
  const auto backend = make_reference_backend(Precision::kF32);
  const RopeScaling scaling{
      .kind = RopeScalingKind::kFactors, .attention_factor = 2.0, .factors = {1.0, 4.0}};
  const RopeTable table = make_rope_table(*backend, 3, 4, 100.0, scaling);
  EXPECT_EQ(table.positions, 3);
  EXPECT_EQ(table.rotary_dim, 4);
  for (int position = 0; position < 3; ++position) {
    const double angles[] = {position * 1.0, position * 0.1 / 4};  // 100^(-2 / 4) = 0.1
    for (int i = 0; i < 2; ++i) {
      EXPECT_FLOAT_EQ(table.cos.as<float>()[2 * position + i], static_cast<float>(2 * std::cos(angles[i])));
      EXPECT_FLOAT_EQ(table.sin.as<float>()[2 * position + i], static_cast<float>(2 * std::sin(angles[i])));
    }
  }
}

}  // namespace
}  // namespace winnow
