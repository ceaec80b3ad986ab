// Engine: an opened model. Sessions share it, one call at a time: the backend has one set of working memory.
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "backends/backend.h"
#include "formats/weight_source.h"
#include "model/architecture.h"
#include "model/decoder_layer.h"
#include "model/model_part.h"
#include "model/weights.h"
#include "ranks/communicator.h"
#include "runtime/attention_costs.h"
#include "runtime/prefill_plan.h"
#include "sparsity/policy.h"
#include "tokenizer/tokenizer.h"

namespace winnow {

struct EngineOptions {
  std::string model;           // a GGUF file or a Hugging Face folder, or
  std::string random_weights;  // the name of a shape to fill with random weights
  std::uint64_t seed = 0;      // of the random weights
  std::string device = "cpu";  // "cpu", "cuda", "cuda:N", or "reference" (the slow oracle)
  Precision precision = Precision::kBF16;
  KvType kv = KvType::kSame;             // what sessions' caches keep; kQ8: on one device, cpu or reference
  int threads = 0;                       // 0: all the process may use
  std::function<void(double)> progress;  // share of the weights loaded, 0..1; may be empty
  // What attention costs, where it shall not be measured; for tests and experiments. Empty: measured.
  std::function<AttentionCosts(const BlockRule&)> attention_costs = {};
  // The ranks that run the model together (docs/multi_gpu.md), and how they share it; null: this process
  // alone. Every rank opens the same. `devices`: one for each rank of a host, in turn; empty: `device`, or
  // GPU N for the host's rank N where that is "cuda".
  std::shared_ptr<Communicator> ranks = nullptr;
  std::vector<std::string> devices = {};
  Split split = Split::kTensor;
};

class Leader;

// The backend that device, precision and threads name. Error(kBadArgument) for a device this build has not.
std::unique_ptr<Backend> make_backend(const EngineOptions& options);

// N of "cuda:N", 0 of "cuda"; nothing for any other text.
std::optional<int> cuda_device(std::string_view device);

// What a policy is checked against.
ModelFacts model_facts(const Architecture& arch);

class Engine {
 public:
  // Throws Error; kOutOfMemory before anything is loaded when the weights cannot fit.
  static std::unique_ptr<Engine> open(const EngineOptions& options);
  ~Engine();

  const Architecture& arch() const { return arch_; }
  // What is here of the model, and its sizes: those of `weights`, caches and activations.
  const ModelPart& part() const { return parts_[static_cast<std::size_t>(rank())]; }
  const Architecture& part_arch() const { return part_arch_; }
  // The parts of all ranks; the ranks, null when there is only this; what rank 0 tells the others with, null
  // elsewhere.
  const std::vector<ModelPart>& parts() const { return parts_; }
  Communicator* ranks() const { return ranks_.get(); }
  Leader* leader() const { return leader_.get(); }
  // A call failed here halfway: the others must not wait for this rank.
  void stop_ranks(const std::exception& error) const;
  // Why the ranks have stopped, so that the engine cannot be used any more; "" while all run. Of any thread.
  std::string failure() const { return ranks_ ? ranks_->failure() : ""; }
  int rank() const { return ranks_ ? ranks_->rank() : 0; }
  const WeightSource& source() const { return *source_; }
  const ModelWeights& weights() const { return weights_; }
  Backend& backend() const { return *backend_; }
  KvType kv_type() const { return kv_type_; }
  // Activations of the session at work.
  const Workspace& workspace() const { return *workspace_; }
  // Error(kBadArgument) for random weights, which have no tokenizer.
  const Tokenizer& tokenizer() const;
  bool has_tokenizer() const { return tokenizer_ != nullptr; }
  bool random() const { return random_; }
  ModelFacts facts() const { return model_facts(arch_); }

  // Of the heads here under `rule`, on this machine: from the cache file, or measured now.
  const AttentionCosts& attention_costs(const BlockRule& rule) const;

  // Memory for a prompt of `prompt_tokens` and `new_tokens` more under `policy` (its stages shorten the
  // caches), on all ranks together.
  MemoryEstimate estimate(std::int64_t prompt_tokens, std::int64_t new_tokens, const Policy& policy) const;
  // The same, on this rank alone; on top of `earlier_rows` that the largest cache has.
  MemoryEstimate estimate_here(std::int64_t prompt_tokens, std::int64_t new_tokens, const Policy& policy,
                               std::int64_t earlier_rows = 0) const;
  // Error(kOutOfMemory) when what the prompt takes beside the weights and the earlier rows is not free now,
  // here or on the ranks that take it from the same memory.
  void check_prompt_fits(std::int64_t tokens, std::int64_t new_tokens, const Policy& policy,
                         std::int64_t earlier_rows) const;

 private:
  // A rank's part and the bytes of its weights.
  struct SizedPart {
    ModelPart part;
    std::int64_t weights = 0;
  };
  // Throws when what these parts need is more than the bytes that `whose` memory has.
  using MemoryCheck =
      std::function<void(std::span<const SizedPart> parts, std::int64_t available, const char* whose)>;

  Engine() = default;
  void load(const EngineOptions& options);
  void find_memory_sharers();
  std::span<const SizedPart> own_size() const;
  MemoryEstimate sum_of(std::span<const SizedPart> parts, std::int64_t prompt_tokens, std::int64_t new_tokens,
                        const Policy& policy, std::int64_t earlier_rows = 0) const;
  void check_weights_fit() const;
  void check_fits(const MemoryCheck& check) const;
  std::unique_ptr<WeightSource> source_;
  Architecture arch_, part_arch_;
  std::shared_ptr<Communicator> ranks_;
  std::vector<ModelPart> parts_;
  std::vector<SizedPart> sizes_;      // of all ranks
  std::vector<SizedPart> in_memory_;  // of the ranks whose backends share this one's memory, itself too
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Tokenizer> tokenizer_;
  ModelWeights weights_;
  std::unique_ptr<Workspace> workspace_;
  std::function<AttentionCosts(const BlockRule&)> measure_costs_;
  std::unique_ptr<AttentionCostsCache> costs_;
  bool random_ = false;
  KvType kv_type_ = KvType::kSame;
  std::unique_ptr<Leader> leader_;  // the last to come, the first to go
};

// Memory the system would let its processes use now, limits of this one's cgroup included, in bytes; -1: it
// does not say.
std::int64_t system_memory_bytes();
// What `ulimit -v` leaves of this process's address space; -1: there is no limit.
std::int64_t address_space_bytes();
// What this process could use now, by both.
std::int64_t available_memory_bytes();
// Most memory the process has held so far (peak resident set), in bytes.
std::int64_t peak_memory_bytes();

}  // namespace winnow
