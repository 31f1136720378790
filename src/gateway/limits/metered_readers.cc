#include "gateway/limits/metered_readers.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <variant>

#include "store/counters.h"

namespace ashlar::gateway {
namespace {

using Refusal = engine::Generator::Refusal;

constexpr std::int64_t kAround = 8;  // tokens that a model may want around a text, or between two

// How long texts are: by the model's tokenizer, or else by their bytes, which are never fewer.
class Ruler {
 public:
  // truncate: as requests have it.
  Ruler(const engine::Generator& generator, const std::string& model, int truncate)
      : generator_(generator), model_(model), truncate_(truncate) {}

  std::int64_t length(const engine::TextOrIds& text) {
    if (const auto* ids = std::get_if<std::vector<std::int32_t>>(&text)) return static_cast<std::int64_t>(ids->size());
    const auto& bytes = std::get<std::string>(text);
    if (known_) {
      engine::Prompt prompt;
      prompt.input = bytes;
      if (const auto read = generator_.tokenize(model_, prompt, true)) {
        context_ = read->context;
        return static_cast<std::int64_t>(read->ids.size());
      }
      known_ = false;
    }
    return static_cast<std::int64_t>(bytes.size()) + kAround;
  }
  // As much of it as is read.
  std::int64_t cut(std::int64_t tokens) const {
    if (truncate_ > 0) return std::min<std::int64_t>(tokens, truncate_);
    return truncate_ == 0 && context_ > 0 ? std::min<std::int64_t>(tokens, context_) : tokens;
  }

 private:
  const engine::Generator& generator_;
  const std::string& model_;
  const int truncate_;
  bool known_ = true;  // the tokenizer is here
  int context_ = 0;
};

std::int64_t most_tokens(const engine::Generator& generator, const engine::EmbedRequest& request) {
  Ruler ruler(generator, request.model, request.truncate);
  std::int64_t sum = 0;
  for (const engine::TextOrIds& text : request.inputs) sum += ruler.cut(ruler.length(text));
  return sum;
}

std::int64_t most_tokens(const engine::Generator& generator, const engine::RerankRequest& request) {
  Ruler ruler(generator, request.model, request.truncate);
  const std::int64_t query = ruler.length(request.query);
  std::int64_t sum = 0;
  for (const std::string& text : request.documents) {
    std::int64_t document = ruler.length(text);
    if (request.document_tokens >= 0) document = std::min<std::int64_t>(document, request.document_tokens);
    sum += ruler.cut(query + document + kAround);
  }
  return sum;
}

// Known at once to be wrong, or with no room: as a Generator refuses, without a trace.
bool refused(Code code) {
  return code == Code::invalid || code == Code::not_found || code == Code::unsupported || code == Code::too_large ||
         code == Code::exhausted || code == Code::forbidden;
}

// One request, from its admission to its answer.
class Reading {
 public:
  Reading(Limits::Admission admission, UsageRecord record, UsageLedger& ledger, std::shared_ptr<OpenUsage> open,
          std::shared_ptr<engine::Delivery> delivery)
      : admission_(std::move(admission)),
        record_(std::move(record)),
        ledger_(ledger),
        open_(std::move(open)),
        delivery_(std::move(delivery)) {
    if (open_ && delivery_) delivery_->count = {open_, &open_->delivered()};
  }

  void finish(int prompt_tokens) {
    record_.use.prompt = std::max(0, prompt_tokens);
    record_.cost = admission_.cost(record_.use);
    admission_.settle(record_.use);
    end(UsageRecord::End::finished);
  }
  void fail(Code code) {
    admission_.release();
    if (!refused(code)) end(code == Code::cancelled ? UsageRecord::End::dropped : UsageRecord::End::failed);
    open_ = nullptr;
  }

 private:
  void end(UsageRecord::End how) {
    record_.end = how;
    record_.seconds = std::chrono::duration<double>(engine::Clock::now() - since_).count();
    if (!open_) return ledger_.record(record_);
    open_->end(std::move(record_));
    if (delivery_)
      delivery_->value = OpenUsage::kAll;
    else
      open_->delivered() = OpenUsage::kAll;
    open_ = nullptr;
  }

  Limits::Admission admission_;
  UsageRecord record_;
  UsageLedger& ledger_;
  std::shared_ptr<OpenUsage> open_;
  const std::shared_ptr<engine::Delivery> delivery_;
  const engine::Clock::time_point since_ = engine::Clock::now();
};

void note(const std::shared_ptr<engine::Notes>& notes, const RateNumbers& numbers) {
  if (notes == nullptr) return;
  for (auto& header : rate_headers(numbers)) notes->push_back(std::move(header));
}

template <class Request>
std::expected<std::shared_ptr<Reading>, Refusal> admit(const ReadersMeter& meter, const Request& request) {
  Subject subject{.key = request.sender.key,
                  .user = request.sender.user,
                  .team = request.sender.team,
                  .tenant = request.tenant,
                  .tags = request.sender.tags};
  auto admission =
      meter.limits.admit({.subject = subject,
                          .model = counted_model(request),
                          .asked_as = request.model,
                          .prompt_tokens = meter.limits.measures() ? most_tokens(meter.tokens, request) : 0,
                          .max_tokens = 0});
  if (!admission) {
    LimitRefusal& refusal = admission.error();
    note(request.notes, refusal.numbers);
    return std::unexpected(Refusal{.error = std::move(refusal.error),
                                   .retry_after = refusal.retry_after,
                                   .reason = std::string(reason(refusal.kind))});
  }
  note(request.notes, admission->numbers());
  UsageRecord record{.reservation = admission->id(),
                     .subject = std::move(subject),
                     .given_id = request.sender.request_id,
                     .model = counted_model(request),
                     .begun_utc_ms = store::machine_instant().utc_ms};
  auto open = meter.ledger.open(record, admission->price(), admission->measures());
  if (!open && std::ranges::find(admission->measures(), Measure::money) != admission->measures().end())
    return std::unexpected(Refusal{.error = std::move(open.error()), .retry_after = std::chrono::seconds(1)});
  if (open) admission->keep_in(*open);
  return std::make_shared<Reading>(std::move(*admission), std::move(record), meter.ledger,
                                   open ? std::move(*open) : nullptr, request.delivery);
}

}  // namespace

void MeteredEmbedder::embed(engine::EmbedRequest request, Done done) {
  auto reading = admit(meter_, request);
  if (!reading) return done(std::unexpected(std::move(reading.error())));
  inner_.embed(std::move(request), [reading = std::move(*reading), done = std::move(done)](auto answer) {
    answer ? reading->finish(answer->prompt_tokens) : reading->fail(answer.error().error.code);
    done(std::move(answer));
  });
}

void MeteredReranker::rerank(engine::RerankRequest request, Done done) {
  auto reading = admit(meter_, request);
  if (!reading) return done(std::unexpected(std::move(reading.error())));
  inner_.rerank(std::move(request), [reading = std::move(*reading), done = std::move(done)](auto answer) {
    answer ? reading->finish(answer->prompt_tokens) : reading->fail(answer.error().error.code);
    done(std::move(answer));
  });
}

}  // namespace ashlar::gateway
