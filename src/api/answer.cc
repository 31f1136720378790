#include "api/answer.h"

#include <algorithm>
#include <utility>

#include "api/door.h"
#include "api/keeper.h"
#include "base/log.h"

namespace ashlar::api {
namespace {

std::uint64_t next_number() {
  static std::atomic<std::uint64_t> last = 0;
  return ++last;
}

std::string stop_reason_json(const engine::ChoiceEnd& end) {
  std::string out;
  if (end.stop_string)
    append_json_string(out, *end.stop_string);
  else if (end.stop_token)
    out = std::to_string(*end.stop_token);
  else
    out = "null";
  return out;
}

}  // namespace

struct Answer::Part final : engine::Sink {
  Part(Answer& owner, int first, std::string_view prompt) : answer(owner), first_choice(first), prompt_member(prompt) {}
  void on(engine::Event event) override { answer.on(*this, std::move(event)); }

  // Stands behind what was told so far.
  net::Marks marks() const {
    if (delivery->count == nullptr) return {};
    return {{.count = delivery->count, .value = delivery->value}};
  }

  Answer& answer;
  const std::shared_ptr<engine::Delivery> delivery = std::make_shared<engine::Delivery>();
  const int first_choice;
  const std::string_view prompt_member;  // what the request calls its prompt
  int tokens = 0;                        // of its answers, so far
};

Answer::Answer(std::shared_ptr<net::Exchange> exchange, std::unique_ptr<Dialect> dialect, Reply reply, Keeper& keeper)
    : exchange_(std::move(exchange)),
      dialect_(std::move(dialect)),
      reply_(std::move(reply)),
      keeper_(keeper),
      number_(next_number()),
      last_write_(engine::Clock::now()) {}

Answer::~Answer() = default;

void Answer::start(engine::Generator& generator, std::vector<engine::Request> requests) {
  {
    std::lock_guard lock(mutex_);
    parts_left_ = requests.size();
    explained_ = requests.size() == 1 && requests.front().sender.explain;
    for (std::size_t i = 0; i < requests.size(); ++i) {
      const int first = static_cast<int>(choices_.size());
      const bool chat = std::holds_alternative<engine::Chat>(requests[i].prompt.input);
      parts_.push_back(std::make_unique<Part>(*this, first, chat ? "messages" : "prompt"));
      for (int j = 0; j < requests[i].n; ++j) choices_.push_back({.index = first + j, .prompt = static_cast<int>(i)});
    }
  }
  requests.front().notes = notes_;
  if (requests.size() > 1) requests.front().sender.explain = false;  // the others may be refused meanwhile
  arrived_ = requests.front().arrived;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    parts_[i]->delivery->name = reply_.id;
    requests[i].delivery = parts_[i]->delivery;
    requests[i].in_pieces = reply_.stream;
    auto ticket = generator.start(std::move(requests[i]), *parts_[i]);
    if (ticket) {
      tickets_.push_back(std::move(*ticket));
      continue;
    }
    std::lock_guard lock(mutex_);
    if (!over_) fail(fault_of(std::move(ticket.error()), parts_[i]->prompt_member));
    return;
  }
}

void Answer::on(Part& part, engine::Event event) {
  {
    std::lock_guard lock(mutex_);
    if (over_) return;
    if (!opened_) told_ = engine::Clock::now();
    std::string out;
    render(part, event, out);
    if (reply_.stream && !out.empty()) {
      open();
      exchange_->write_marked(std::move(out), part.marks());
      last_write_ = engine::Clock::now();
    }
    if (std::holds_alternative<engine::Finished>(event) && parts_left_ == 0) finish();
    if (!over_) return;
  }
  keeper_.ended(number_);  // not under our lock: the keeper's comes first
}

// `all`: so many are known to have come; 0: `more` have.
void Answer::count(Part& part, int more, int all) {
  const int now = all > 0 ? all : part.tokens + more;
  usage_.completion_tokens += now - std::exchange(part.tokens, now);
}

void Answer::render(Part& part, engine::Event& event, std::string& out) {
  if (const auto* started = std::get_if<engine::Started>(&event)) {
    if (!asked_) asked_ = started->asked;
    usage_.prompt_tokens += started->prompt_tokens;
    usage_.cached_tokens += started->cached_tokens;
    usage_.written_tokens += started->written_tokens;
    usage_.hour_tokens += started->hour_tokens;
    for (Choice& choice : choices_)
      if (choice.prompt == choices_[part.first_choice].prompt) dialect_->started(choice, *started, out);
  } else if (const auto* text = std::get_if<engine::Text>(&event)) {
    count(part, static_cast<int>(text->ids.size()), text->counted);
    dialect_->text(choices_.at(part.first_choice + text->choice), *text, usage_, out);
  } else if (const auto* reasoning = std::get_if<engine::Reasoning>(&event)) {
    count(part, 0, reasoning->counted);
    dialect_->reasoning(choices_.at(part.first_choice + reasoning->choice), *reasoning, usage_, out);
  } else if (const auto* call = std::get_if<engine::ToolCall>(&event)) {
    count(part, 0, call->counted);
    dialect_->tool_call(choices_.at(part.first_choice + call->choice), *call, usage_, out);
  } else if (const auto* members = std::get_if<engine::Members>(&event)) {
    dialect_->members(choices_.at(part.first_choice + members->choice), *members, usage_, out);
  } else if (const auto* end = std::get_if<engine::ChoiceEnd>(&event)) {
    Choice& choice = choices_.at(part.first_choice + end->choice);
    choice.finish_reason = '"' + std::string(engine::name(end->reason)) + '"';
    choice.stop_reason = stop_reason_json(*end);
    dialect_->ended(choice, usage_, out);
  } else if (const auto* finished = std::get_if<engine::Finished>(&event)) {
    total_.prompt_tokens += finished->usage.prompt_tokens;
    total_.completion_tokens += finished->usage.completion_tokens;
    total_.cached_tokens += finished->usage.cached_tokens;
    total_.written_tokens += finished->usage.written_tokens;
    total_.hour_tokens += finished->usage.hour_tokens;
    total_.reasoning_tokens += finished->usage.reasoning_tokens;
    total_.accepted_tokens += finished->usage.accepted_tokens;
    total_.rejected_tokens += finished->usage.rejected_tokens;
    total_.estimated = total_.estimated || finished->usage.estimated;
    --parts_left_;
  } else if (auto* failed = std::get_if<engine::Failed>(&event)) {
    fail(fault_of(std::move(*failed), part.prompt_member));
  }
}

net::Headers Answer::with_notes(net::Headers headers) {
  headers.reserve(headers.size() + 1 + notes_->size());
  headers.push_back(overhead_header(arrived_, asked_, told_));
  headers.insert(headers.end(), std::make_move_iterator(notes_->begin()), std::make_move_iterator(notes_->end()));
  engine::Notes().swap(*notes_);
  return headers;
}

net::Marks Answer::marks() const {
  net::Marks all;
  for (const auto& part : parts_)
    for (net::Mark& mark : part->marks()) all.push_back(std::move(mark));
  return all;
}

void Answer::open() {
  if (std::exchange(opened_, true)) return;
  exchange_->begin(200, with_notes({{"content-type", "text/event-stream; charset=utf-8"},
                                    {"cache-control", "no-cache"},
                                    {"x-accel-buffering", "no"}}));
}

void Answer::finish() {
  if (reply_.stream) {
    std::string out;
    open();
    if (reply_.include_usage) dialect_->usage(total_, out);
    out.append("data: [DONE]\n\n");
    exchange_->write_marked(std::move(out), marks());
    exchange_->end();
  } else {
    exchange_->respond_marked(200, with_notes({{"content-type", "application/json"}}),
                              dialect_->whole(choices_, total_), marks());
  }
  over_ = true;
}

void Answer::fail(const Fault& fault) {
  if (opened_) {
    exchange_->write("data: " + error_json(fault) + "\n\n");
    exchange_->end();
  } else {
    respond_fault(*exchange_, fault, with_notes({}));
  }
  if (status_of(fault) == 500 || status_of(fault) == 502)
    log::warn("generation_failed",
              {{"id", reply_.id}, {"code", name(fault.error.code)}, {"message", fault.error.message}});
  over_ = true;
}

// Whoever asked for its way waits for the head, which tells it, until the answer begins.
void Answer::ping(engine::Clock::time_point quiet_since) {
  if (!reply_.stream || over_ || last_write_.load() > quiet_since) return;
  std::lock_guard lock(mutex_);
  if (over_ || (explained_ && !opened_)) return;
  open();
  exchange_->write(": ping\n\n");
  last_write_ = engine::Clock::now();
}

}  // namespace ashlar::api
