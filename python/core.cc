// winnow._core: the C interface (winnow/winnow.h) for Python, tokens and logits as numpy's arrays. Python's
// other threads run during every call, and Ctrl-C ends one between two layers or tokens. What is closed
// during a call is freed after it. python/winnow/engine.py gives all of it types, defaults and checks.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <winnow/winnow.h>

#include <cmath>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace py = pybind11;
using namespace py::literals;

namespace {

using Tokens = py::array_t<std::int32_t, py::array::c_style>;
using Text = std::optional<std::string>;

struct Failure : std::exception {
  Failure(winnow_status status_in, std::string message_in)
      : status(status_in), message(std::move(message_in)) {}
  winnow_status status;
  std::string message;
};

// One call of the library, without the interpreter's lock.
template <class Function>
void call(Function&& function) {
  winnow_status status = WINNOW_OK;
  std::string message;
  {
    const py::gil_scoped_release release;
    status = function();
    if (status != WINNOW_OK) message = winnow_error_message();
  }
  if (status != WINNOW_OK) throw Failure(status, message);
}

template <class Struct>
Struct empty() {
  Struct result;
  WINNOW_INIT(result);
  return result;
}

// None of windows too few for one.
py::object interval(double low, double high) {
  if (std::isnan(low)) return py::none();
  return py::make_tuple(low, high);
}

const char* pointer_to(const Text& text) { return text ? text->c_str() : nullptr; }

std::vector<const char*> pointers_to(const std::vector<std::string>& texts) {
  std::vector<const char*> pointers;
  for (const std::string& text : texts) pointers.push_back(text.c_str());
  return pointers;
}

py::str decoded(const char* text, std::size_t bytes) {
  return py::reinterpret_steal<py::str>(
      PyUnicode_DecodeUTF8(text, static_cast<py::ssize_t>(bytes), "replace"));
}

// Memory the library has given away: as Python's.
py::str taken(char* text, std::size_t bytes) {
  const std::unique_ptr<char, void (*)(void*)> owner(text, winnow_free);
  return decoded(text, bytes);
}

Tokens taken(std::int32_t* tokens, std::size_t count) {
  if (tokens == nullptr) return Tokens(0);
  return Tokens(static_cast<py::ssize_t>(count), tokens, py::capsule(tokens, winnow_free));
}

// What the library calls while it works: a Python function, or none. What that raises, or a signal, ends the
// call; reraise() raises it again.
class Callback {
 public:
  explicit Callback(py::object function) : function_(std::move(function)) {}

  static int progress(double share, void* self) {
    const py::gil_scoped_acquire acquire;
    return static_cast<Callback*>(self)->tell(share);
  }
  static int on_token(std::int32_t token, const char* text, std::size_t bytes, void* self) {
    const py::gil_scoped_acquire acquire;
    return static_cast<Callback*>(self)->tell(token, decoded(text, bytes));
  }
  void reraise() const {
    if (raised_) std::rethrow_exception(raised_);
  }

 private:
  template <class... Arguments>
  int tell(Arguments&&... arguments) {
    if (raised_) return 1;  // not all calls end at once
    try {
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
      if (function_.is_none()) return 0;
      return is_false(function_(std::forward<Arguments>(arguments)...)) ? 1 : 0;
    } catch (...) {
      raised_ = std::current_exception();
      return 1;
    }
  }

  // Python's and numpy's; None and 0 go on.
  static bool is_false(const py::object& answer) {
    if (answer.is(py::bool_(false))) return true;
    return py::isinstance(answer, py::module_::import("numpy").attr("bool_")) && !answer.cast<bool>();
  }

  py::object function_;
  std::exception_ptr raised_;
};

// A call that the callback may end: what it raised says more than "cancelled". Where the call succeeds all
// the same, what it gave is taken before reraise().
template <class Function>
void call(const Callback& callback, Function&& function) {
  try {
    call(function);
  } catch (const Failure&) {
    callback.reraise();
    throw;
  }
}

// A handle of the library. Calls hold what get() gives, so that close() during one takes effect after it.
template <class Kind, void (*kFree)(Kind*)>
class Handle {
 public:
  explicit Handle(Kind* pointer) : pointer_(pointer, give_back) {}

  std::shared_ptr<Kind> get() const {
    if (!pointer_) throw py::value_error("is closed");
    return pointer_;
  }
  void close() { pointer_.reset(); }

 private:
  static void give_back(Kind* pointer) {  // waits for the engine, whose callbacks want the lock
    const py::gil_scoped_release release;
    kFree(pointer);
  }

  std::shared_ptr<Kind> pointer_;
};

using Policy = Handle<winnow_policy, winnow_policy_free>;

class Session : public Handle<winnow_session, winnow_session_close> {
 public:
  using Handle::Handle;

  py::array_t<float> prefill(const Tokens& tokens, const Policy& policy, std::int64_t reserve_tokens,
                             py::object progress) {
    const Turn turn(*this);
    const auto session = get();
    const auto chosen = policy.get();
    Callback callback(std::move(progress));
    auto options = empty<winnow_prefill_options>();
    options.reserve_tokens = reserve_tokens;
    options.progress = Callback::progress;
    options.user_data = &callback;
    const std::int32_t* data = tokens.data();
    const auto count = static_cast<std::size_t>(tokens.size());
    call(callback,
         [&] { return winnow_session_prefill(session.get(), data, count, chosen.get(), &options); });
    callback.reraise();
    return copied_logits(session.get());
  }

  py::array_t<float> decode(std::int32_t token) {
    const Turn turn(*this);
    const auto session = get();
    call([&] { return winnow_session_decode(session.get(), token); });
    return copied_logits(session.get());
  }

  py::array_t<float> logits() {
    const Turn turn(*this);
    return copied_logits(get().get());
  }

  py::list stages() {
    const Turn turn(*this);
    const auto session = get();
    std::size_t count = 0;
    call([&] { return winnow_session_stages(session.get(), &count); });
    py::list result;
    for (std::size_t i = 0; i < count; ++i) {
      auto stage = empty<winnow_stage>();
      call([&] { return winnow_session_stage(session.get(), i, &stage); });
      result.append(py::dict("layer"_a = stage.layer, "tokens_before"_a = stage.tokens_before,
                             "ms"_a = stage.ms, "kept"_a = Tokens(stage.tokens_kept, stage.kept)));
    }
    return result;
  }

  py::dict stats() {
    const Turn turn(*this);
    const auto session = get();
    auto s = empty<winnow_stats>();
    call([&] { return winnow_session_stats(session.get(), &s); });
    return py::dict("tokens"_a = s.tokens, "room"_a = s.room, "prompt_tokens"_a = s.prompt_tokens,
                    "kept_tokens"_a = s.kept_tokens, "prefill_ms"_a = s.prefill_ms,
                    "decode_ms"_a = s.decode_ms, "avgtok"_a = s.avgtok, "density"_a = s.density,
                    "attention_work"_a = s.attention_work, "flops"_a = s.flops, "kv_bytes"_a = s.kv_bytes,
                    "memory_bytes"_a = s.memory_bytes);
  }

  // (tokens, text or None, how it ended, ms)
  py::tuple generate(std::int64_t max_new_tokens, double temperature, std::int64_t top_k, double top_p,
                     std::uint64_t seed, const std::vector<std::string>& stop, bool new_text,
                     py::object on_token) {
    const Turn turn(*this);
    const auto session = get();
    const auto stops = pointers_to(stop);
    Callback callback(std::move(on_token));
    auto options = empty<winnow_generate_options>();
    options.max_new_tokens = max_new_tokens;
    options.temperature = temperature;
    options.top_k = top_k;
    options.top_p = top_p;
    options.seed = seed;
    options.stop = stops.data();
    options.stop_count = stops.size();
    options.new_text = new_text ? 1 : 0;
    options.on_token = Callback::on_token;
    options.user_data = &callback;
    auto answer = empty<winnow_answer>();
    call(callback, [&] { return winnow_generate(session.get(), &options, &answer); });
    const Tokens tokens = taken(answer.tokens, answer.count);
    const py::object text = answer.text ? py::object(taken(answer.text, answer.text_bytes)) : py::none();
    callback.reraise();
    constexpr const char* kFinish[] = {"stop", "length", "callback"};
    return py::make_tuple(tokens, text, kFinish[answer.finish], answer.decode_ms);
  }

 private:
  // What is borrowed from a session stays until its next call: calls of other threads wait for their turn.
  class Turn {
   public:
    explicit Turn(Session& session) : mutex_(session.mutex_) {
      const py::gil_scoped_release release;
      mutex_.lock();
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    ~Turn() { mutex_.unlock(); }

   private:
    std::recursive_mutex& mutex_;  // a callback may try; the library refuses it
  };

  static py::array_t<float> copied_logits(winnow_session* session) {
    const float* values = nullptr;
    std::size_t count = 0;
    call([&] { return winnow_session_logits(session, &values, &count); });
    return py::array_t<float>(static_cast<py::ssize_t>(count), values);
  }

  std::recursive_mutex mutex_;
};

class Engine : public Handle<winnow_engine, winnow_engine_close> {
 public:
  using Handle::Handle;

  static std::unique_ptr<Engine> open(const Text& model, const Text& random_weights, std::uint64_t seed,
                                      const std::string& device, const std::string& precision,
                                      const std::string& kv, std::int32_t threads, py::object progress) {
    Callback callback(std::move(progress));
    auto options = empty<winnow_engine_options>();
    options.model = pointer_to(model);
    options.random_weights = pointer_to(random_weights);
    options.seed = seed;
    options.device = device.c_str();
    options.precision = precision.c_str();
    options.kv = kv.c_str();
    options.threads = threads;
    options.progress = Callback::progress;
    options.user_data = &callback;
    winnow_engine* engine = nullptr;
    call(callback, [&] { return winnow_engine_open(&options, &engine); });
    auto opened = std::make_unique<Engine>(engine);
    callback.reraise();
    return opened;
  }

  py::dict model() const {
    const auto engine = get();
    auto m = empty<winnow_model_info>();
    call([&] { return winnow_engine_info(engine.get(), &m); });
    return py::dict("name"_a = decoded(m.name, std::char_traits<char>::length(m.name)), "layers"_a = m.layers,
                    "heads"_a = m.heads, "kv_heads"_a = m.kv_heads, "model_dim"_a = m.model_dim,
                    "vocab"_a = m.vocab, "context"_a = m.context, "has_tokenizer"_a = m.has_tokenizer != 0,
                    "has_chat_template"_a = m.has_chat_template != 0);
  }

  Tokens tokenize(const std::string& text, bool parse_special) const {
    const auto engine = get();
    std::int32_t* tokens = nullptr;
    std::size_t count = 0;
    call([&] {
      return winnow_tokenize(engine.get(), text.data(), text.size(), parse_special ? 1 : 0, &tokens, &count);
    });
    return taken(tokens, count);
  }

  Tokens tokenize_chat(const std::vector<std::string>& roles,
                       const std::vector<std::string>& contents) const {
    const auto engine = get();
    const auto role = pointers_to(roles), content = pointers_to(contents);
    std::int32_t* tokens = nullptr;
    std::size_t count = 0;
    call([&] {
      return winnow_tokenize_chat(engine.get(), role.data(), content.data(), role.size(), &tokens, &count);
    });
    return taken(tokens, count);
  }

  py::str detokenize(const Tokens& tokens) const {
    const auto engine = get();
    const std::int32_t* data = tokens.data();
    const auto count = static_cast<std::size_t>(tokens.size());
    char* text = nullptr;
    std::size_t bytes = 0;
    call([&] { return winnow_detokenize(engine.get(), data, count, &text, &bytes); });
    return taken(text, bytes);
  }

  std::unique_ptr<Policy> policy(const std::string& text) const {
    const auto engine = get();
    winnow_policy* policy = nullptr;
    call([&] { return winnow_policy_parse(engine.get(), text.c_str(), &policy); });
    return std::make_unique<Policy>(policy);
  }

  std::unique_ptr<Session> session() const {
    const auto engine = get();
    winnow_session* session = nullptr;
    call([&] { return winnow_session_open(engine.get(), &session); });
    return std::make_unique<Session>(session);
  }

  // (a dict for each policy, the report as JSON)
  py::tuple evaluate(const std::string& text, const std::vector<Policy*>& policies, std::int64_t length,
                     std::int64_t windows, py::object progress) const {
    const auto engine = get();
    std::vector<std::shared_ptr<winnow_policy>> held;
    std::vector<const winnow_policy*> pointers;
    for (const Policy* policy : policies) {
      if (policy == nullptr) throw py::type_error("a policy is None");
      pointers.push_back(held.emplace_back(policy->get()).get());
    }
    std::vector<winnow_quality> results(policies.size(), empty<winnow_quality>());
    Callback callback(std::move(progress));
    auto options = empty<winnow_evaluate_options>();
    options.length = length;
    options.windows = windows;
    options.progress = Callback::progress;
    options.user_data = &callback;
    char* report = nullptr;
    call(callback, [&] {
      return winnow_evaluate(engine.get(), pointers.data(), pointers.size(), text.data(), text.size(),
                             &options, results.data(), &report);
    });
    const py::str report_text = taken(report, std::char_traits<char>::length(report));
    callback.reraise();
    py::list qualities;
    for (const winnow_quality& q : results) {
      qualities.append(py::dict("windows"_a = q.windows, "kl"_a = q.kl,
                                "kl_interval"_a = interval(q.kl_low, q.kl_high), "dce"_a = q.dce,
                                "dce_interval"_a = interval(q.dce_low, q.dce_high), "top1"_a = q.top1,
                                "ppl"_a = q.ppl, "avgtok"_a = q.avgtok, "density"_a = q.density,
                                "kv_share"_a = q.kv_share, "speedup"_a = q.speedup));
    }
    return py::make_tuple(qualities, report_text);
  }
};

py::str policy_json(const Policy& policy) {
  const auto held = policy.get();
  char* json = nullptr;
  call([&] { return winnow_policy_json(held.get(), &json); });
  return taken(json, std::char_traits<char>::length(json));
}

void raise(const Failure& failure) {
  const py::object type = py::module_::import("winnow._error").attr("Error");
  const py::object error =
      type(winnow_status_name(failure.status), decoded(failure.message.data(), failure.message.size()));
  PyErr_SetObject(type.ptr(), error.ptr());
}

// pybind11 before 2.12 reads the arrays of numpy 2 wrongly, without an error.
void check_numpy() {
  const auto version = py::module_::import("numpy").attr("__version__").cast<std::string>();
  if (PYBIND11_VERSION_HEX >= 0x020C0000 || version.starts_with("1.")) return;
  throw py::import_error(
      "winnow was built with pybind11 " PYBIND11_TOSTRING(PYBIND11_VERSION_MAJOR) "." PYBIND11_TOSTRING(
          PYBIND11_VERSION_MINOR) ", which cannot read the arrays of numpy " +
      version + ": build it with pybind11 2.12 or later, or use numpy 1");
}

}  // namespace

PYBIND11_MODULE(_core, module) {
  check_numpy();
  module.attr("version") = winnow_version();
  py::register_exception_translator([](std::exception_ptr thrown) {
    try {
      std::rethrow_exception(std::move(thrown));
    } catch (const Failure& failure) {
      raise(failure);
    }
  });
  py::class_<Policy>(module, "Policy").def("json", policy_json);
  py::class_<Session>(module, "Session")
      .def("close", &Session::close)
      .def("prefill", &Session::prefill)
      .def("decode", &Session::decode)
      .def("logits", &Session::logits)
      .def("stages", &Session::stages)
      .def("stats", &Session::stats)
      .def("generate", &Session::generate);
  py::class_<Engine>(module, "Engine")
      .def(py::init(&Engine::open))
      .def("close", &Engine::close)
      .def("model", &Engine::model)
      .def("tokenize", &Engine::tokenize)
      .def("tokenize_chat", &Engine::tokenize_chat)
      .def("detokenize", &Engine::detokenize)
      .def("policy", &Engine::policy)
      .def("session", &Engine::session)
      .def("evaluate", &Engine::evaluate);
}
