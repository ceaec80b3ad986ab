#include "runtime/engine.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <numeric>
#include <string>

#include "model/random_weights.h"
#include "model/weight_sizes.h"
#include "ranks/rank_threads.h"
#include "runtime/prefill_plan.h"
#include "runtime/ranks.h"

namespace winnow {
namespace {

// "/proc" and cgroup files hold one number or a word such as "max".
std::int64_t number_in(const std::string& path) {
  std::int64_t value = -1;
  std::ifstream(path) >> value;
  return value;
}

// File pages a cgroup counts as used but gives back when memory is wanted: what a build or a download leaves
// behind.
std::int64_t reclaimable_bytes() {
  std::ifstream stat("/sys/fs/cgroup/memory.stat");
  std::int64_t total = 0, value = 0;
  for (std::string key; stat >> key >> value;) {
    if (key == "inactive_file" || key == "active_file") total += value;
  }
  return total;
}

// What ranks give each other goes through the hosts' memory or from GPU to GPU, the same way for all.
void check_one_kind(const std::vector<std::string>& devices) {
  const auto is_gpu = [](const std::string& device) { return cuda_device(device).has_value(); };
  const auto gpus = std::count_if(devices.begin(), devices.end(), is_gpu);
  if (gpus == 0 || gpus == std::ssize(devices)) return;
  fail(ErrorCode::kUnsupported, "--devices {}: a model runs on GPUs or on CPUs, not on both",
       fmt::join(devices, ","));
}

// What `options` come to on this rank.
EngineOptions own_options(EngineOptions options) {
  const Communicator& ranks = *options.ranks;
  const auto local = static_cast<std::size_t>(ranks.local_rank());
  if (!options.devices.empty()) {
    options.device = options.devices[local % options.devices.size()];
  } else if (options.device == "cuda") {
    options.device = fmt::format("cuda:{}", local);
  }
  options.threads = threads_of_rank(options.threads, ranks.local_size());
  return options;
}

}  // namespace

std::int64_t system_memory_bytes() {
  std::ifstream meminfo("/proc/meminfo");
  std::int64_t available = -1;
  for (std::string key; meminfo >> key;) {
    if (key == "MemAvailable:" && meminfo >> available) {
      available *= 1024;
      break;
    }
  }
  const std::int64_t limit = number_in("/sys/fs/cgroup/memory.max"),
                     used = number_in("/sys/fs/cgroup/memory.current") - reclaimable_bytes();
  if (limit <= 0 || used < 0) return available;
  return available < 0 ? limit - used : std::min(available, limit - used);
}

std::int64_t address_space_bytes() {
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return -1;
  const std::int64_t used = number_in("/proc/self/statm") * sysconf(_SC_PAGESIZE);
  return std::max<std::int64_t>(0, static_cast<std::int64_t>(limit.rlim_cur) - used);
}

std::int64_t available_memory_bytes() {
  const std::int64_t system = system_memory_bytes(), addresses = address_space_bytes();
  return system < 0 || addresses < 0 ? std::max(system, addresses) : std::min(system, addresses);
}

std::int64_t peak_memory_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;
}

std::unique_ptr<Backend> make_backend(const EngineOptions& options) {
  if (options.device == "cpu") return make_cpu_backend(options.precision, options.threads);
  if (options.device == "reference") return make_reference_backend(options.precision);
  if (const auto index = cuda_device(options.device)) {
    if (options.precision == Precision::kInt8) {
      fail(ErrorCode::kUnsupported,
           "--precision int8: --device {} computes in bf16 or f32; int8 is the CPU's", options.device);
    }
    if (options.kv != KvType::kSame) {
      fail(ErrorCode::kUnsupported, "--kv {}: caches on --device {} are kept as computed (--kv same)",
           kv_type_name(options.kv), options.device);
    }
    return make_cuda_backend(options.precision, *index);
  }
  fail(ErrorCode::kBadArgument, "--device {}: must be cpu, cuda, cuda:N or reference", options.device);
}

std::optional<int> cuda_device(std::string_view device) {
  if (device == "cuda") return 0;
  constexpr std::string_view kPrefix = "cuda:";
  if (!device.starts_with(kPrefix)) return std::nullopt;
  int index = 0;
  const char* end = device.data() + device.size();
  const auto [stop, error] = std::from_chars(device.data() + kPrefix.size(), end, index);
  if (error != std::errc() || stop != end || index < 0) return std::nullopt;
  return index;
}

ModelFacts model_facts(const Architecture& arch) {
  return {arch.name, arch.shape_hash(), arch.layers, arch.heads};
}

std::unique_ptr<Engine> Engine::open(const EngineOptions& options) {
  if (options.model.empty() == options.random_weights.empty()) {
    fail(ErrorCode::kBadArgument, "name a model (-m) or a shape (--random-weights), one of the two");
  }
  std::unique_ptr<Engine> engine(new Engine());
  engine->random_ = !options.random_weights.empty();
  engine->source_ = engine->random_ ? make_random_weights(options.random_weights, options.seed)
                                    : open_weights(options.model);
  engine->arch_ = read_architecture(*engine->source_);
  if (options.ranks && options.ranks->size() > 1) engine->ranks_ = options.ranks;
  if (engine->ranks_) check_one_kind(options.devices);
  engine->kv_type_ = options.kv;
  if (engine->ranks_ && options.kv != KvType::kSame) {
    fail(ErrorCode::kUnsupported, "--kv {}: caches over several devices are kept as computed (--kv same)",
         kv_type_name(options.kv));
  }
  engine->parts_ = split_model(engine->arch_, options.split, engine->ranks_ ? engine->ranks_->size() : 1);
  engine->part_arch_ = part_of(engine->arch_, engine->part());
  if (!engine->ranks_) {
    engine->load(options);
    return engine;
  }
  if (engine->rank() == 0) engine->leader_ = std::make_unique<Leader>(*engine->ranks_, options);
  try {
    engine->load(own_options(options));
    engine->ranks_->barrier();  // what failed elsewhere shows here
  } catch (const std::exception& error) {
    engine->stop_ranks(error);
    throw;
  }
  return engine;
}

Engine::~Engine() = default;

void Engine::stop_ranks(const std::exception& error) const {
  if (ranks_) ranks_->stop(fmt::format("rank {}: {}", rank(), error.what()));
}

void Engine::load(const EngineOptions& options) {
  backend_ = make_backend(options);
  if (ranks_) {
    backend_->join({.ranks = ranks_,
                    .heads = part().heads,
                    .model_heads = arch_.heads,
                    .sums = !part().sums_whole,
                    .most_columns = arch_.model_dim});
  }
  for (const ModelPart& part : parts_) {
    sizes_.push_back({part, loaded_bytes(*source_, arch_, part, *backend_).total()});
  }
  find_memory_sharers();
  check_weights_fit();
  if (ranks_) ranks_->barrier();  // before any of them takes memory that another one looks at
  if (!random_) tokenizer_ = open_tokenizer(options.model);
  weights_ = load_weights(*source_, arch_, part(), *backend_, options.progress);
  if (ranks_) {  // what a decoded token reads, it reads on all of them
    const auto each = ranks_->gather(weights_.decode_bytes);
    weights_.decode_bytes = std::accumulate(each.begin(), each.end(), std::int64_t{0});
  }
  workspace_ = std::make_unique<Workspace>(part_arch_, *backend_, backend_->chunk_rows());
  measure_costs_ = options.attention_costs;
  costs_ = std::make_unique<AttentionCostsCache>(options.attention_costs ? "" : attention_costs_file());
}

void Engine::find_memory_sharers() {
  in_memory_ = sizes_;
  if (!ranks_) return;
  const int none = -1 - ranks_->rank();  // a GPU's memory is its rank's
  const auto memories = ranks_->gather(backend_->shares_host_memory() ? ranks_->host() : none);
  in_memory_.clear();
  for (std::size_t rank = 0; rank < memories.size(); ++rank) {
    if (memories[rank] == memories[static_cast<std::size_t>(this->rank())]) {
      in_memory_.push_back(sizes_[rank]);
    }
  }
}

void Engine::check_weights_fit() const {
  check_fits([&](std::span<const SizedPart> parts, std::int64_t available, const char* whose) {
    std::int64_t needed = 0;
    for (const SizedPart& part : parts) needed += part.weights;
    if (needed <= available) return;
    fail(ErrorCode::kOutOfMemory, "{}: the weights need {} MiB, {} has {} MiB free", source_->path(),
         needed >> 20, whose, available >> 20);
  });
}

void Engine::check_prompt_fits(std::int64_t tokens, std::int64_t new_tokens, const Policy& policy,
                               std::int64_t earlier_rows) const {
  check_fits([&](std::span<const SizedPart> parts, std::int64_t available, const char* whose) {
    const MemoryEstimate estimate = sum_of(parts, tokens, new_tokens, policy, earlier_rows);
    const std::int64_t needed = estimate.kv + estimate.activations;
    if (needed <= available) return;
    fail(ErrorCode::kOutOfMemory,
         "a prompt of {} tokens needs {} MiB (caches {}, activations {}), {} has {} MiB free", tokens,
         needed >> 20, estimate.kv >> 20, estimate.activations >> 20, whose, available >> 20);
  });
}

// The host's memory is there once for all ranks on it; a process's address space is its own.
void Engine::check_fits(const MemoryCheck& check) const {
  const std::int64_t free = backend_->free_bytes();
  if (free >= 0) return check(in_memory_, free, "the GPU");
  const std::int64_t system = system_memory_bytes(), addresses = address_space_bytes();
  if (system >= 0) check(in_memory_, system, "the system");
  if (addresses >= 0) check(own_size(), addresses, "the process's address space");
}

const Tokenizer& Engine::tokenizer() const {
  if (tokenizer_ == nullptr)
    fail(ErrorCode::kBadArgument, "random weights have no tokenizer: they read token ids only");
  return *tokenizer_;
}

const AttentionCosts& Engine::attention_costs(const BlockRule& rule) const {
  const AttentionShape shape{part_arch_.heads, part_arch_.kv_heads, arch_.head_dim};
  return costs_->get(attention_costs_key(*backend_, shape, rule), [&] {
    return measure_costs_ ? measure_costs_(rule) : measure_attention_costs(*backend_, shape, rule);
  });
}

std::span<const Engine::SizedPart> Engine::own_size() const {
  return {&sizes_[static_cast<std::size_t>(rank())], 1};
}

MemoryEstimate Engine::sum_of(std::span<const SizedPart> parts, std::int64_t prompt_tokens,
                              std::int64_t new_tokens, const Policy& policy,
                              std::int64_t earlier_rows) const {
  MemoryEstimate sum;
  for (const SizedPart& sized : parts) {
    const MemoryEstimate one =
        estimate_memory(sized.weights, part_of(arch_, sized.part), *backend_, prompt_tokens, new_tokens,
                        policy, sized.part.layers.begin, kv_type_, earlier_rows);
    sum.weights += one.weights;
    sum.kv += one.kv;
    sum.activations += one.activations;
  }
  return sum;
}

MemoryEstimate Engine::estimate(std::int64_t prompt_tokens, std::int64_t new_tokens,
                                const Policy& policy) const {
  return sum_of(sizes_, prompt_tokens, new_tokens, policy);
}

MemoryEstimate Engine::estimate_here(std::int64_t prompt_tokens, std::int64_t new_tokens,
                                     const Policy& policy, std::int64_t earlier_rows) const {
  return sum_of(own_size(), prompt_tokens, new_tokens, policy, earlier_rows);
}

}  // namespace winnow
