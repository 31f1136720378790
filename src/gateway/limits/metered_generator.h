// A Generator over another: each request is admitted by the limits before it runs and settled to what was delivered
// when it ends, however it ends, and leaves one usage record.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "engine/forwarding_generator.h"
#include "gateway/limits/limits.h"
#include "gateway/limits/usage_record.h"

namespace ashlar::gateway {

struct MeteredOptions {
  // Who asks, for start() without a subject. Nothing: the request's tenant alone is known.
  std::function<Subject(const engine::Request&)> subject_of;
  // The prompt's tokens, where somebody knows them cheaper than inner.tokenize() finds them.
  std::function<Result<std::int64_t>(const engine::Request&)> count_prompt;
  // What a model whose context nobody knows may answer at most, where the request does not say.
  std::int64_t unknown_room = 4096;
  // Whether a request may begin at all now, before anything is reserved for it.
  std::function<std::optional<engine::Generator::Refusal>(const engine::Request&)> admit;
  // The models to ask, in this order, where a budget has no room for what was asked.
  std::function<std::vector<std::string>(const std::string& model)> instead;
};

// What an answer used: as the generator reports at its end, or, of one that ended early, the tokens that were
// delivered. Pieces of text that come without their tokens, thoughts and calls count as a token for each four bytes
// begun. A request that failed before any text came is released: nobody pays for it.
class MeteredGenerator final : public engine::ForwardingGenerator {
 public:
  // All must outlive it, and it its tickets.
  MeteredGenerator(engine::Generator& inner, Limits& limits, UsageLedger& ledger, MeteredOptions options = {});

  // Where a budget has no room, the models of `instead` are tried, each within its own limits and at its own price.
  // Refusals of limits have code exhausted (429; `reason` tells rates from budgets), invalid (it fits no limit), or
  // unavailable (it costs money, and its counts cannot be reached or its accounts not be kept). max_tokens becomes what
  // was admitted where that is less.
  std::expected<std::unique_ptr<engine::Ticket>, Refusal> start(engine::Request request, engine::Sink& sink) override;
  // The same for a subject that is known; `numbers`, if not null, gets what the answer's headers tell, of a refusal
  // too.
  std::expected<std::unique_ptr<engine::Ticket>, Refusal> start_for(Subject subject, engine::Request&& request,
                                                                    engine::Sink& sink, RateNumbers* numbers);

 private:
  class Run;
  class HeldTicket;
  struct Size {
    std::int64_t prompt = 0;
    std::int64_t room = 0;  // for the answer
    bool known = false;     // the room, by the model's context
  };
  // Who had to tokenize the prompt hands it on. `foreign`: the model is known to be another server's.
  Size size_of(engine::Request& request, bool foreign) const;
  bool is_foreign(const std::string& model) const;
  // Both become those of another model where that one is admitted in its place.
  std::expected<Limits::Admission, LimitRefusal> admit(const Subject& subject, engine::Request& request, Size& size);

  Limits& limits_;
  UsageLedger& ledger_;
  const MeteredOptions options_;
};

}  // namespace ashlar::gateway
