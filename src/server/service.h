// Service: the API without HTTP. Bodies in, JSON or a running job out.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "runtime/engine.h"
#include "server/answer_format.h"
#include "server/policy_book.h"
#include "server/request.h"
#include "server/scheduler.h"

namespace winnow {

struct ServiceOptions {
  std::string model_id;                   // what clients call the model
  std::int64_t default_max_tokens = 512;  // of a chat answer whose request says nothing
  std::int64_t max_prompt_tokens = 0;     // 0: what the context takes
  std::string session_folder = {};        // where sessions are kept; "": they are not
};

// An answer under way: wait for the job's events, give them to the format. Going away before the job's last
// event cancels it.
class Answering {
 public:
  Answering(AnswerRequest request, const Tokenizer& tokenizer, AnswerHead head, std::shared_ptr<Job> job)
      : request_(std::move(request)), format_(request_, tokenizer, std::move(head)), job_(std::move(job)) {}
  Answering(const Answering&) = delete;
  Answering& operator=(const Answering&) = delete;
  ~Answering() { job_->cancel(); }

  const AnswerRequest& request() const { return request_; }
  AnswerFormat& format() { return format_; }
  Job& job() { return *job_; }

 private:
  AnswerRequest request_;
  AnswerFormat format_;
  std::shared_ptr<Job> job_;
};

class Service {
 public:
  // All must outlive it. Error(kBadArgument) for an engine without a tokenizer.
  Service(const Engine& engine, PolicyBook policies, Scheduler& scheduler, const ServiceOptions& options);

  // Each throws ApiError.
  std::unique_ptr<Answering> chat(std::string_view body);
  std::unique_ptr<Answering> complete(std::string_view body);
  nlohmann::json tokenize(std::string_view body) const;
  nlohmann::json models() const;
  nlohmann::json model(const std::string& id) const;
  // Why nothing can be answered any more (Engine::failure); "": it can.
  std::string failure() const { return engine_.failure(); }

 private:
  std::unique_ptr<Answering> begin(AnswerRequest request);
  void check_running() const;
  void check_model(const std::string& id) const;
  std::vector<TokenId> tokens_of(const AnswerRequest& request) const;
  std::vector<TokenId> chat_tokens(const std::vector<ChatMessage>& messages) const;
  std::int64_t answer_tokens(const AnswerRequest& request, std::int64_t prompt_tokens) const;
  Policy policy_of(const WinnowField& winnow, std::int64_t prompt_tokens) const;
  std::string session_file(const WinnowField& winnow) const;

  const Engine& engine_;
  PolicyBook policies_;
  Scheduler& scheduler_;
  ServiceOptions options_;
  std::string fingerprint_;
  std::int64_t started_;
};

}  // namespace winnow
