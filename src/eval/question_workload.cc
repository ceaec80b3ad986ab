#include "eval/question_workload.h"

#include <algorithm>
#include <chrono>
#include <optional>

#include "core/elapsed.h"
#include "core/error.h"
#include "eval/policy_session.h"
#include "runtime/generate.h"
#include "tokenizer/utf8.h"

namespace winnow {
namespace {

class QuestionItem final : public Item {
 public:
  QuestionItem(const Engine& engine, const PromptEncoder& encoder, const Task& task,
               const QuestionSettings& settings, std::int64_t index)
      : engine_(engine),
        encoder_(encoder),
        task_(task),
        question_(task.make(settings.length, index, settings.seed)) {
    if (question_.cut_middle) shorten(settings.length - question_.max_new_tokens);
    const auto start = std::chrono::steady_clock::now();
    tokens_ = encoder_.first_turn(question_.prompt);
    tokenise_ms_ = ms_since(start);
  }

  std::optional<Sample> measure(const EvalPolicy& policy, const Cancelled& cancelled) override {
    if (policy.oracle() && !oracle_ && !observe(cancelled)) return std::nullopt;
    Sample sample;
    PolicySession reader(engine_, policy);
    auto generation = answer(reader, cancelled, sample);
    if (!generation) return std::nullopt;
    if (question_.follow_up) {
      generation = ask_again(reader.session(), policy, *generation, cancelled);
      if (!generation) return std::nullopt;
    }
    sample.answer = utf8_repair(encoder_.tokenizer().decode(generation->tokens, /*skip_control=*/true));
    sample.values["score"] = task_.score(question_, sample.answer);
    return sample;
  }

 private:
  // The template and what it adds are kept whole: the user's text is cut, and cut again where joining the
  // halves made other tokens.
  void shorten(std::int64_t budget) {
    for (std::int64_t over = encoder_.count(question_.prompt) - budget; over > 0;
         over = encoder_.count(question_.prompt) - budget) {
      std::vector<TokenId> user = encoder_.text_tokens(question_.prompt.user);
      const std::int64_t most = std::ssize(user) - over;
      if (most < 2)
        fail(ErrorCode::kBadArgument, "{}: {} tokens leave no room for a prompt", task_.name(), budget);
      question_.prompt.user =
          encoder_.tokenizer().decode(without_middle(std::move(user), most), /*skip_control=*/false);
    }
  }

  std::optional<Generation> answer(PolicySession& reader, const Cancelled& cancelled, Sample& sample) const {
    const std::int64_t follow_up_tokens =
        question_.follow_up ? question_.max_new_tokens + encoder_.count(*question_.follow_up) : 0;
    if (!reader.read(tokens_, oracle_ ? &*oracle_ : nullptr, question_.max_new_tokens + follow_up_tokens,
                     cancelled)) {
      return std::nullopt;
    }
    sample.prompt_tokens = std::ssize(tokens_);
    sample.prefill = reader.facts();
    auto generation = greedy(reader.session(), cancelled);
    if (generation && reader.timed()) {
      sample.ttft_ms = tokenise_ms_ + reader.facts().ms + generation->first_token_ms;
    }
    return generation;
  }

  std::optional<Generation> greedy(Session& session, const Cancelled& cancelled) const {
    Sampler sampler({});
    GenerateOptions options;
    options.stop_tokens = encoder_.tokenizer().stop_tokens();
    options.max_new_tokens = question_.max_new_tokens;
    options.cancelled = cancelled;
    Generation generation = generate(session, sampler, options);
    if (generation.reason == FinishReason::kCancelled) return std::nullopt;
    return generation;
  }

  std::optional<Generation> ask_again(Session& session, const EvalPolicy& policy, const Generation& first,
                                      const Cancelled& cancelled) const {
    std::vector<TokenId> turn;
    if (first.last_token_pending) turn.push_back(first.tokens.back());
    const std::vector<TokenId> question = encoder_.later_turn(*question_.follow_up);
    turn.insert(turn.end(), question.begin(), question.end());
    Policy again = policy.policy;
    if (policy.oracle()) again.tokens.stages.clear();
    PrefillOptions options;
    options.reserve_tokens = question_.max_new_tokens;
    options.cancelled = cancelled;
    if (!session.prefill(turn, again, options)) return std::nullopt;
    return greedy(session, cancelled);
  }

  // What follows the prompt is what dense answers.
  bool observe(const Cancelled& cancelled) {
    const EvalPolicy dense{"dense", Policy{}, std::nullopt};
    PolicySession reader(engine_, dense);
    if (!reader.read(tokens_, nullptr, question_.max_new_tokens, cancelled)) return false;
    const auto generation = greedy(reader.session(), cancelled);
    if (!generation) return false;
    std::vector<TokenId> following = generation->tokens;
    // Dense had nothing to say: the token that ends the answer is what follows.
    if (following.empty()) following.push_back(encoder_.tokenizer().stop_tokens().front());
    oracle_ = Oracle::observe(engine_, tokens_, following, cancelled);
    return oracle_.has_value();
  }

  const Engine& engine_;
  const PromptEncoder& encoder_;
  const Task& task_;
  Question question_;
  std::vector<TokenId> tokens_;
  double tokenise_ms_ = 0;
  std::optional<Oracle> oracle_;
};

class QuestionWorkload final : public Workload {
 public:
  QuestionWorkload(const Engine& engine, const PromptEncoder& encoder, const Task& task,
                   const QuestionSettings& settings)
      : engine_(engine), encoder_(encoder), task_(task), settings_(settings) {}

  std::string name() const override { return task_.name(); }
  std::int64_t length() const override { return settings_.length; }
  std::int64_t items() const override { return task_.items(settings_.count); }
  nlohmann::json identity() const override { return {task_.identity(), settings_.seed, encoder_.chat()}; }
  std::unique_ptr<Item> item(std::int64_t index) const override {
    return std::make_unique<QuestionItem>(engine_, encoder_, task_, settings_, index);
  }

 private:
  const Engine& engine_;
  const PromptEncoder& encoder_;
  const Task& task_;
  QuestionSettings settings_;
};

}  // namespace

std::vector<TokenId> without_middle(std::vector<TokenId> tokens, std::int64_t most) {
  if (std::ssize(tokens) <= most) return tokens;
  const std::int64_t half = most / 2;
  tokens.erase(tokens.begin() + half, tokens.end() - half);
  return tokens;
}

std::unique_ptr<Workload> make_question_workload(const Engine& engine, const PromptEncoder& encoder,
                                                 const Task& task, const QuestionSettings& settings) {
  return std::make_unique<QuestionWorkload>(engine, encoder, task, settings);
}

}  // namespace winnow
