#include "gateway/limits/metered_generator.h"

#include <algorithm>
#include <iterator>
#include <string_view>
#include <utility>

#include "base/json_full.h"

namespace ashlar::gateway {
namespace {

using engine::Event;
using engine::Request;

std::int64_t utc_ms() { return store::machine_instant().utc_ms; }

// The bytes of a value as JSON, or a few more.
std::size_t bytes_of_text(std::string_view text) {
  std::size_t bytes = text.size() + 3;
  for (const unsigned char c : text) bytes += c < 0x20 ? 5 : c == '"' || c == '\\' ? 1 : 0;
  return bytes;
}
std::size_t bytes_of(const Json& value) {
  if (value.is_string()) return bytes_of_text(value.get_ref<const std::string&>());
  if (!value.is_structured()) return 25;
  std::size_t bytes = 3;
  if (value.is_object())
    for (const auto& [name, inner] : value.items()) bytes += bytes_of_text(name) + bytes_of(inner) + 1;
  else
    for (const Json& inner : value) bytes += bytes_of(inner);
  return bytes;
}

// The most tokens that a prompt can have whose tokenizer is not here: each stands for a byte at least, and a message
// has some around it.
std::int64_t most_tokens(const engine::Prompt& prompt) {
  if (const auto* ids = std::get_if<std::vector<std::int32_t>>(&prompt.input))
    return static_cast<std::int64_t>(ids->size());
  if (const auto* text = std::get_if<std::string>(&prompt.input)) return static_cast<std::int64_t>(text->size()) + 8;
  const auto& chat = std::get<engine::Chat>(prompt.input);
  std::size_t bytes = 64;
  for (const auto& part : {chat.messages, chat.tools})
    if (part) bytes += bytes_of(*part);
  return static_cast<std::int64_t>(bytes);
}

}  // namespace

// One request: between the generator's events and the client's sink. The generator's thread calls on(); whoever drops
// the ticket calls drop() when no event comes any more. So one thread at a time.
class MeteredGenerator::Run final : public engine::Sink {
 public:
  Run(Limits::Admission admission, UsageRecord record, UsageLedger& ledger, std::shared_ptr<OpenUsage> open,
      std::shared_ptr<engine::Delivery> delivery, engine::Sink& sink)
      : admission_(std::move(admission)),
        record_(std::move(record)),
        ledger_(ledger),
        open_(std::move(open)),
        delivery_(std::move(delivery)),
        sink_(sink) {
    if (open_ && delivery_) delivery_->count = {open_, &open_->delivered()};
  }

  void on(Event event) override {
    if (const auto* started = std::get_if<engine::Started>(&event)) {
      record_.use.prompt = started->prompt_tokens;
      record_.use.cached = started->cached_tokens;
      record_.use.written = started->written_tokens;
      record_.use.hour = started->hour_tokens;
      record_.deployment = started->deployment;
      begun_ = true;
      if (open_) open_->prompt(record_.use);
    } else if (const auto* text = std::get_if<engine::Text>(&event)) {
      deliver(text->ids.empty() ? guess(text->text) : static_cast<std::int64_t>(text->ids.size()), text->counted);
    } else if (const auto* thought = std::get_if<engine::Reasoning>(&event)) {
      deliver(guess(thought->text), thought->counted);
      record_.use.reasoning += guess(thought->text);
    } else if (const auto* call = std::get_if<engine::ToolCall>(&event)) {
      deliver(guess(call->name) + guess(call->arguments), call->counted);
    } else if (const auto* finished = std::get_if<engine::Finished>(&event)) {
      finish(finished->usage);
    } else if (std::holds_alternative<engine::Failed>(event)) {
      end(UsageRecord::End::failed, delivered_);
    }
    if (open_) advance();
    sink_.on(std::move(event));  // last: after the last event whoever holds the ticket may drop it, and us
  }

  // It never ran: no record; the reservation is released with us.
  void forget() { over_ = true; }
  void drop() { end(UsageRecord::End::dropped, begun_ || delivered_); }

 private:
  static std::int64_t guess(std::string_view text) { return static_cast<std::int64_t>(text.size() + 3) / 4; }
  double seconds() const { return std::chrono::duration<double>(engine::Clock::now() - since_).count(); }
  void deliver(std::int64_t tokens, std::int64_t counted) {
    if (!std::exchange(delivered_, true)) record_.first_seconds = seconds();
    record_.use.completion = counted > 0 ? counted : record_.use.completion + tokens;
  }

  // Before the client's sink has the event: a row never says less than the client has.
  void advance() {
    const std::uint64_t tokens = over_ ? OpenUsage::kAll : static_cast<std::uint64_t>(record_.use.completion);
    if (delivery_)
      delivery_->value = tokens;
    else
      open_->delivered().store(tokens, std::memory_order_release);
    if (over_) open_ = nullptr;
  }

  void finish(const engine::Usage& usage) {
    TokenUse& use = record_.use;
    use = {.prompt = std::max(0, usage.prompt_tokens),
           .cached = std::max(0, usage.cached_tokens),
           .written = std::max(0, usage.written_tokens),
           .hour = std::max(0, usage.hour_tokens),
           .completion = std::max<std::int64_t>(0, usage.completion_tokens),
           .reasoning = std::max(0, usage.reasoning_tokens)};
    end(usage.kept ? UsageRecord::End::kept : UsageRecord::End::finished, true);
  }

  void end(UsageRecord::End how, bool charged) {
    if (std::exchange(over_, true)) return;
    if (!charged) record_.use = {};
    const bool kept = how == UsageRecord::End::kept;  // its row says what the client got, but nobody computed it
    record_.cost = kept ? 0 : admission_.cost(record_.use);
    record_.end = how;
    record_.seconds = seconds();
    // The counts first: a ledger never knows more than they do.
    charged ? admission_.settle(kept ? TokenUse() : record_.use) : admission_.release();
    open_ ? open_->end(std::move(record_)) : ledger_.record(record_);
  }

  Limits::Admission admission_;
  UsageRecord record_;
  UsageLedger& ledger_;
  std::shared_ptr<OpenUsage> open_;                   // null: not kept open, or over
  const std::shared_ptr<engine::Delivery> delivery_;  // null: nobody tells how far it comes
  engine::Sink& sink_;
  const engine::Clock::time_point since_ = engine::Clock::now();
  bool begun_ = false, delivered_ = false, over_ = false;
};

class MeteredGenerator::HeldTicket final : public engine::Ticket {
 public:
  explicit HeldTicket(std::unique_ptr<Run> run) : run_(std::move(run)) {}
  void hold(std::unique_ptr<engine::Ticket> inner) { inner_ = std::move(inner); }
  ~HeldTicket() override {
    inner_.reset();  // from here on no event comes
    run_->drop();
  }

 private:
  const std::unique_ptr<Run> run_;
  std::unique_ptr<engine::Ticket> inner_;
};

MeteredGenerator::MeteredGenerator(engine::Generator& inner, Limits& limits, UsageLedger& ledger,
                                   MeteredOptions options)
    : ForwardingGenerator(inner), limits_(limits), ledger_(ledger), options_(std::move(options)) {}

namespace {

void note(const Request& request, const RateNumbers& numbers) {
  if (request.notes == nullptr) return;
  std::ranges::move(rate_headers(numbers), std::back_inserter(*request.notes));
}

}  // namespace

std::expected<std::unique_ptr<engine::Ticket>, engine::Generator::Refusal> MeteredGenerator::start(Request request,
                                                                                                   engine::Sink& sink) {
  Subject subject = options_.subject_of ? options_.subject_of(request) : Subject{.tenant = request.tenant};
  return start_for(std::move(subject), std::move(request), sink, nullptr);
}

MeteredGenerator::Size MeteredGenerator::size_of(Request& request, bool foreign) const {
  Size size;
  int context = 0;
  if (auto counted = options_.count_prompt ? options_.count_prompt(request) : Result<std::int64_t>(-1);
      counted && *counted >= 0) {
    size.prompt = *counted;
    if (const auto card = inner_.card(request.model)) context = card->context;
  } else if (foreign || is_foreign(request.model)) {
    size.prompt = most_tokens(request.prompt);  // its tokenizer is not here
  } else if (auto tokenized = inner_.tokenize(request.model, request.prompt, true)) {
    size.prompt = static_cast<std::int64_t>(tokenized->ids.size());
    context = tokenized->context;
    if (tokenized->by != nullptr) {
      tokenized->pieces = {};
      request.tokenized = std::make_shared<const engine::Tokenized>(std::move(*tokenized));
    }
  } else {
    size.prompt = most_tokens(request.prompt);
  }
  size.known = context > 0;
  size.room = size.known ? std::max<std::int64_t>(0, context - size.prompt) : options_.unknown_room;
  return size;
}

bool MeteredGenerator::is_foreign(const std::string& model) const {
  const auto card = inner_.card(model);
  return card && card->foreign;
}

std::expected<Limits::Admission, LimitRefusal> MeteredGenerator::admit(const Subject& subject, Request& request,
                                                                       Size& size) {
  const auto asked = [&](const Request& of, const Size& as) {
    return limits_.admit({.subject = subject,
                          .model = counted_model(of),
                          .asked_as = of.model,
                          .prompt_tokens = as.prompt,
                          .max_tokens = of.stopping.max_tokens,
                          .room = as.room,
                          .answers = std::max(1, of.n)});
  };
  auto admission = asked(request, size);
  if (admission || admission.error().kind != LimitRefusal::Kind::quota || !options_.instead) return admission;
  for (std::string& model : options_.instead(request.model)) {
    Request other = request;
    other.model = std::move(model);
    other.sender.counted_as.clear();
    other.tokenized = nullptr;
    const Size other_size = size_of(other, false);
    auto admitted = asked(other, other_size);
    if (!admitted) continue;
    request = std::move(other);
    size = other_size;
    return admitted;
  }
  return admission;
}

std::expected<std::unique_ptr<engine::Ticket>, engine::Generator::Refusal> MeteredGenerator::start_for(
    Subject subject, Request&& request, engine::Sink& sink, RateNumbers* numbers) {
  if (options_.admit)
    if (auto refusal = options_.admit(request)) return std::unexpected(std::move(*refusal));
  const bool limited = !limits_.idle(), measured = limits_.measures();
  Size size = measured ? size_of(request, request.body != nullptr) : Size();
  auto admission = admit(subject, request, size);
  if (!admission) {
    LimitRefusal& refusal = admission.error();
    if (numbers != nullptr) *numbers = refusal.numbers;
    note(request, refusal.numbers);
    return std::unexpected(Refusal{.error = std::move(refusal.error),
                                   .retry_after = refusal.retry_after,
                                   .reason = std::string(reason(refusal.kind))});
  }
  if (numbers != nullptr) *numbers = admission->numbers();
  note(request, admission->numbers());
  const bool stated = request.stopping.max_tokens >= 0;
  if (limited &&
      (admission->max_tokens() < (stated ? request.stopping.max_tokens : size.room) || (!stated && !size.known)))
    request.stopping.max_tokens = static_cast<int>(admission->max_tokens());
  UsageRecord record{.reservation = admission->id(),
                     .request = request.id,
                     .subject = std::move(subject),
                     .given_id = request.sender.request_id,
                     .model = counted_model(request),
                     .begun_utc_ms = utc_ms()};
  auto open = ledger_.open(record, admission->price(), admission->measures());
  if (!open && std::ranges::find(admission->measures(), Measure::money) != admission->measures().end())
    return std::unexpected(Refusal{.error = std::move(open.error()), .retry_after = std::chrono::seconds(1)});
  if (open) admission->keep_in(*open);
  auto run = std::make_unique<Run>(std::move(*admission), std::move(record), ledger_, open ? std::move(*open) : nullptr,
                                   request.delivery, sink);
  Run& sink_of_inner = *run;
  auto ticket = std::make_unique<HeldTicket>(std::move(run));
  auto started = inner_.start(std::move(request), sink_of_inner);
  if (!started) {
    sink_of_inner.forget();
    return std::unexpected(std::move(started.error()));
  }
  ticket->hold(std::move(*started));
  return ticket;
}

}  // namespace ashlar::gateway
