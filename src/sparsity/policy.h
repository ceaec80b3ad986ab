// Policy: what to leave out. Plain data, read from JSON or from a text such as "keep08:recency+pooled=0.9";
// checked against a model once.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "backends/backend.h"

namespace winnow {

enum class ScorerKind : std::uint8_t { kAttention, kRecency, kRandom, kNorm, kLearned, kOracle };
enum class PositionMode : std::uint8_t { kOriginal, kCompact };
enum class KvMode : std::uint8_t { kOwn, kFinal };

// A query head of a layer.
struct AskedHead {
  std::int64_t layer = 0;
  std::int32_t head = 0;
  friend bool operator==(const AskedHead&, const AskedHead&) = default;
};

// Before `layer`, either a share of the current prompt tokens is kept or as many as hold `top_p` of the score
// mass.
struct Stage {
  std::int64_t layer = 0;
  double keep = 1.0;
  std::optional<double> top_p = {};
  std::vector<AskedHead> heads = {};  // (attention) of layers before `layer`; empty: all of layer - 1
};

struct TokenPolicy {
  std::vector<Stage> stages;  // ascending by layer; empty: nothing is pruned
  ScorerKind scorer = ScorerKind::kAttention;
  std::int64_t window = 64;                        // last queries that vote (attention)
  QueryReduction queries = QueryReduction::kMean;  // how the window's queries are combined (attention)
  HeadReduction heads = HeadReduction::kMax;       // (attention, where a stage asks all heads)
  std::int64_t pool = 7;     // width of the max-pool over neighbours (attention, learned); 1: none
  double recency_mix = 0.0;  // 0..1: weight of a token's rank by position beside its rank by score
  double quota = 1.0;  // 0..1: share of the tokens a stage chooses that go by score; the rest: the latest
  std::string scorer_file;             // (learned); relative to the working directory, or absolute
  std::uint64_t seed = 0;              // (random)
  std::int64_t protect_head = 4;       // first tokens that always stay
  std::int64_t protect_tail_min = 16;  // last tokens that always stay: at least this many,
  double protect_tail_share = 0.1;     // or this share of the current length
  PositionMode positions = PositionMode::kOriginal;
  KvMode kv = KvMode::kOwn;
};

enum class SelectorKind : std::uint8_t {
  kDense,
  kExactMass,  // probabilities, criterion mass
  kThreshold,  // probabilities, criterion maximum
  kAntidiagonal,
  kPooled,
  kVerticalSlash,
  kLocal,
};
enum class DecodeMode : std::uint8_t { kDense, kSelected };

// Which blocks of attention are computed. `rule` follows from the selector, which fixes its estimator.
struct AttentionPolicy {
  SelectorKind selector = SelectorKind::kDense;
  BlockRule rule;
  std::vector<std::vector<float>> thresholds{{0.95f}};  // [1][1], or [layers] of [1] or [heads] each
  std::int64_t dense_last_tokens = 64;                  // the turn's last queries see everything
  std::int64_t dense_first_layers = 0;
  DecodeMode decode = DecodeMode::kDense;
  bool gate = true;  // false: blocks are skipped even where the dense kernel would be faster

  bool dense() const { return selector == SelectorKind::kDense; }
  bool one_threshold() const { return thresholds.size() == 1 && thresholds[0].size() == 1; }
  float threshold(std::int64_t layer, std::int64_t head) const {
    const std::vector<float>& row = thresholds.size() == 1 ? thresholds[0] : thresholds[layer];
    return row.size() == 1 ? row[0] : row[head];
  }
};

struct Policy {
  std::string name = "dense";  // preset or file, for tables
  TokenPolicy tokens;
  AttentionPolicy attention;
  std::string model_name, shape_hash;  // of the model it was made for; empty: any
  std::optional<std::int64_t> model_layers;
  nlohmann::json measured;  // what calibration found; informative

  bool prunes() const { return !tokens.stages.empty(); }
  bool dense() const { return !prunes() && attention.dense(); }
};

// The model facts a policy is checked against.
struct ModelFacts {
  std::string name, shape_hash;
  std::int64_t layers = 0;
  std::int64_t heads = 0;  // query heads; 0: not known, and not compared
};

// POLICY as on the command line: terms joined by '+'.
//   TOKENS[+SELECTOR]   or   SELECTOR alone, with dense tokens
//   TOKENS   = dense | keep09 | keep08 | keep07 | a JSON file, each with an optional :SCORER[=FILE]
//   SELECTOR = dense | local | NAME[=THRESHOLD], NAME a selector of policy_from_json(): it takes the place of
//              the file's attention section, with the selector's defaults for all but the threshold
// A text is cut at its last '+' and its last ':' with a selector's or scorer's name behind it, so that paths
// may hold both; presets and selectors win over files of the same name. A scorer named here takes the place
// of the file's, by with_scorer(). The result has passed check_policy(),
// unless `model` has no layers (no model is known: files, "dense" and selectors only). Error(kBadArgument)
// names what is wrong and what is possible; a file's own faults are those of policy_from_json(), and bad
// JSON, a key given twice or more than 1 MiB are Error(kBadFormat).
Policy parse_policy(const std::string& text, const ModelFacts& model);

// The number that policy.measured has under this key; nothing where there is none.
std::optional<double> measured_number(const Policy& policy, const char* key);

// The file of the scorers that came with winnow for this very model, which keep08:learned takes; empty when
// there are none.
std::string shipped_scorers(const ModelFacts& model);

// The same stages under another scorer, which has its default settings and asks no particular heads.
TokenPolicy with_scorer(TokenPolicy tokens, ScorerKind scorer);

// From a policy file's JSON; unknown keys, wrong types, values out of range and keys that the selector does
// not know are Error(kBadFormat) naming file and key; another version is Error(kUnsupported). `origin` is the
// file, for messages and because a relative scorer_file counts from its folder. check_policy() follows
// separately.
Policy policy_from_json(const nlohmann::json& json, const std::string& origin);
// Every key that has a meaning, so that a file keeps it when defaults change. scorer_file comes out absolute:
// the JSON may be saved anywhere.
nlohmann::json policy_to_json(const Policy& policy);

// Error(kBadArgument) when the policy was made for another model (other layers or shape_hash; names are not
// compared), a stage is not in 1..layers-1 or asks a head the model has not, or the table of thresholds has
// not the model's layers and heads.
void check_policy(const Policy& policy, const ModelFacts& model, const std::string& origin);

const char* scorer_name(ScorerKind kind);
const char* selector_name(SelectorKind kind);

}  // namespace winnow
