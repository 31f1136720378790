#include "gateway/upstreams/teller.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <random>
#include <utility>

#include "base/json_full.h"

namespace ashlar::gateway {
namespace {

constexpr std::size_t kMaxCalls = 1024;  // of one choice
constexpr std::size_t kMostEarly = 64;

std::uint64_t quarters_of(std::string_view text) {
  std::uint64_t out = 0;
  for (const unsigned char c : text)
    if (c < 0x80)
      out += 1;
    else if ((c & 0xC0) != 0x80)
      out += 4;
  return out;
}

int tokens_of(std::uint64_t quarters) {
  return static_cast<int>(std::min<std::uint64_t>((quarters + 3) / 4, std::numeric_limits<int>::max()));
}

// Pictures and sounds stand in a message as Base64 or addresses: they are not read as text.
void add_json(std::uint64_t& quarters, const Json& value, int depth = 0) {
  if (depth > 32) return;
  if (value.is_string()) quarters += quarters_of(value.get_ref<const std::string&>());
  if (value.is_array())
    for (const Json& each : value) add_json(quarters, each, depth + 1);
  if (value.is_object())
    for (const auto& [name, each] : value.items())
      if (name != "url" && name != "data" && name != "type" && name != "id" && name != "image_url")
        add_json(quarters, each, depth + 1);
}

std::string new_call_id() {
  thread_local std::mt19937_64 random{std::random_device{}()};
  return fmt::format("call_{:016x}{:08x}", random(), static_cast<std::uint32_t>(random()));
}

}  // namespace

int estimate_tokens(std::string_view text) { return tokens_of(quarters_of(text)); }

int estimate_tokens(const engine::Prompt& prompt) {
  std::uint64_t quarters = 0;
  if (const auto* ids = std::get_if<std::vector<std::int32_t>>(&prompt.input)) return static_cast<int>(ids->size());
  if (const auto* text = std::get_if<std::string>(&prompt.input)) return estimate_tokens(*text);
  const auto& chat = std::get<engine::Chat>(prompt.input);
  for (const auto& part : {chat.messages, chat.tools})
    if (part) {
      add_json(quarters, *part);
      quarters += 12 * part->size();  // what a template writes around each
    }
  return tokens_of(quarters);
}

std::optional<int> count_of(const Json& object, std::string_view name) {
  if (!object.is_object()) return std::nullopt;
  const auto found = object.find(name);
  if (found == object.end() || !found->is_number()) return std::nullopt;
  const double value = found->get<double>();
  if (!(value >= 0 && value <= std::numeric_limits<int>::max())) return std::nullopt;
  return static_cast<int>(value);
}

std::optional<int> written_of(const Json& openai) {
  if (const auto details = openai.find("prompt_tokens_details"); details != openai.end())
    for (const std::string_view name : {"cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens"})
      if (const auto count = count_of(*details, name)) return count;
  return count_of(openai, "cache_creation_input_tokens");
}

std::optional<int> hour_of(const Json& usage) {
  const Json* writes = &usage;
  if (const auto details = usage.find("prompt_tokens_details"); details != usage.end()) writes = &*details;
  for (const std::string_view name : {"cache_creation_token_details", "cache_creation"})
    for (const Json* each : {writes, &usage})
      if (const auto found = each->find(name); found != each->end())
        if (const auto count = count_of(*found, "ephemeral_1h_input_tokens")) return count;
  return std::nullopt;
}

Teller::Teller(std::string upstream, const engine::Request& request)
    : upstream_(std::move(upstream)),
      most_tokens_(request.stopping.max_tokens),
      prompt_estimate_(estimate_tokens(request.prompt)),
      in_pieces_(request.in_pieces),
      choices_(static_cast<std::size_t>(std::max(1, request.n))) {}

Teller::Choice* Teller::open(int choice) {
  if (over_ || failure_) return nullptr;
  if (choice < 0 || choice >= std::ssize(choices_)) {
    fail(nonsense(upstream_, "a choice that was not asked for"));
    return nullptr;
  }
  Choice& found = choices_[static_cast<std::size_t>(choice)];
  if (found.ended) return nullptr;
  if (!std::exchange(begun_, true)) begin();
  return &found;
}

void Teller::begin() {
  events_.emplace_back(engine::Started{.prompt_tokens = prompt_.value_or(prompt_estimate_),
                                       .cached_tokens = cached_.value_or(0),
                                       .written_tokens = written_.value_or(0),
                                       .hour_tokens = hour_.value_or(0),
                                       .asked = made_});
  for (engine::Members& each : early_) events_.emplace_back(std::move(each));
  early_.clear();
}

// An estimate may be wrong by a factor, so that only what is far beyond the limit is cut: an upstream that does not
// obey it, or never ends.
void Teller::count(Choice& choice, int index, std::uint64_t quarters) {
  choice.quarters += quarters;
  if (most_tokens_ < 0 || tokens_of(choice.quarters) <= 2ll * most_tokens_ + 64) return;
  capped_ = true;
  end({.choice = index, .reason = engine::FinishReason::length});
  if (!any_choice_open()) finish();
}

// True: the text was put behind the one before it, where nobody wants to see that there were two.
bool Teller::goes_on(const engine::Text& text) {
  if (in_pieces_ || events_.empty() || !text.logprobs.empty()) return false;
  auto* const before = std::get_if<engine::Text>(&events_.back());
  if (before == nullptr || before->choice != text.choice || !before->logprobs.empty()) return false;
  before->text += text.text;
  if (text.counted > 0) before->counted = text.counted;
  return true;
}

// What the upstream counts in a piece's own event is what it has made up to it: some do with each.
int Teller::so_far() {
  if (!fresh_ || choices_.size() > 1 || *completion_ <= told_) return 0;
  return told_ = *completion_;
}

void Teller::text(engine::Text text) {
  if (text.text.empty() && text.logprobs.empty()) return;
  Choice* choice = open(text.choice);
  if (choice == nullptr) return;
  const int index = text.choice;
  const std::uint64_t quarters = quarters_of(text.text);
  text.counted = so_far();
  if (!goes_on(text)) events_.emplace_back(std::move(text));
  count(*choice, index, quarters);
}

void Teller::reasoning(int index, std::string_view text) {
  if (text.empty()) return;
  Choice* choice = open(index);
  if (choice == nullptr) return;
  const std::uint64_t quarters = quarters_of(text);
  reasoning_quarters_ += quarters;
  events_.emplace_back(engine::Reasoning{.choice = index, .text = std::string(text), .counted = so_far()});
  count(*choice, index, quarters);
}

void Teller::tool_call(int index, int call, std::string_view id, std::string_view name, std::string_view arguments,
                       bool custom) {
  Choice* choice = open(index);
  if (choice == nullptr) return;
  auto& calls = choice->calls;
  auto known = std::find_if(calls.rbegin(), calls.rend(), [&](const auto& each) {
    if (call < 0) return !id.empty() && each.id == id;
    return each.said == call && (id.empty() || each.id == id || name.empty());
  });
  if (call < 0 && id.empty() && name.empty()) known = calls.rbegin();
  engine::ToolCall out{.choice = index, .arguments = std::string(arguments), .custom = custom};
  if (known == calls.rend()) {
    if (name.empty() || calls.size() >= kMaxCalls) return fail(nonsense(upstream_, "a tool call without a name"));
    out.index = static_cast<int>(calls.size());
    out.id = id.empty() ? new_call_id() : std::string(id.substr(0, 512));
    out.name = name.substr(0, 512);
    calls.push_back({.said = call, .id = out.id, .custom = custom});
  } else {
    if (arguments.empty()) return;
    out.index = static_cast<int>(calls.rend() - known) - 1;
    out.custom = known->custom;
  }
  out.counted = so_far();
  events_.emplace_back(std::move(out));
  count(*choice, index, quarters_of(arguments));
}

void Teller::members(int index, Json object, engine::Members::Of of) {
  if (of == engine::Members::Of::message && open(index) == nullptr) return;
  if (over_ || failure_ || index < 0 || index >= std::ssize(choices_) || early_.size() >= kMostEarly) return;
  engine::Members told{.choice = index, .json = std::make_shared<const Json>(std::move(object)), .of = of};
  begun_ ? void(events_.emplace_back(std::move(told))) : early_.push_back(std::move(told));
}

void Teller::end(engine::ChoiceEnd end) {
  Choice* choice = open(end.choice);
  if (choice == nullptr) return;
  choice->ended = true;
  // Some say "stop" though they ask for tools; clients would then not look for the calls.
  if (end.reason == engine::FinishReason::stop && !choice->calls.empty()) end.reason = engine::FinishReason::tool_calls;
  events_.emplace_back(std::move(end));
}

void Teller::counted(std::optional<int> prompt, std::optional<int> completion, std::optional<int> cached,
                     std::optional<int> reasoning, std::optional<int> written, std::optional<int> hour) {
  if (prompt) prompt_ = prompt;
  if (completion) {
    completion_ = completion;
    fresh_ = true;
  }
  if (cached) cached_ = cached;
  if (reasoning) reasoning_ = reasoning;
  if (written) written_ = written;
  if (hour) hour_ = hour;
}

void Teller::usage(const Json& openai) {
  const auto inner = [&](std::string_view details, std::string_view name) {
    const auto found = openai.is_object() ? openai.find(details) : openai.end();
    return openai.is_object() && found != openai.end() ? count_of(*found, name) : std::nullopt;
  };
  counted(count_of(openai, "prompt_tokens"), count_of(openai, "completion_tokens"),
          inner("prompt_tokens_details", "cached_tokens"), inner("completion_tokens_details", "reasoning_tokens"),
          written_of(openai), hour_of(openai));
  accepted_ = inner("completion_tokens_details", "accepted_prediction_tokens").value_or(accepted_);
  rejected_ = inner("completion_tokens_details", "rejected_prediction_tokens").value_or(rejected_);
}

bool Teller::any_choice_open() const { return !std::ranges::all_of(choices_, &Choice::ended); }

bool Teller::has_calls(int choice) const {
  return choice >= 0 && choice < std::ssize(choices_) && !choices_[static_cast<std::size_t>(choice)].calls.empty();
}

void Teller::done() {
  if (over_ || failure_) return;
  for (int i = 0; i < std::ssize(choices_); ++i) end({.choice = i});
  finish();
}

void Teller::closed() {
  if (over_ || failure_) return;
  if (any_choice_open())
    return fail({.failed = {.error = {Code::corrupt,
                                      fmt::format("the upstream '{}' ended in the midst of its answer", upstream_)},
                            .status = 502,
                            .reason = "upstream_error"},
                 .retry = true});
  finish();
}

void Teller::finish() {
  std::uint64_t quarters = 0;
  for (const Choice& choice : choices_) quarters += choice.quarters;
  const int estimate = tokens_of(quarters);
  engine::Usage usage{.prompt_tokens = prompt_.value_or(prompt_estimate_)};
  // Nothing for something is no count; and an answer that was cut is not what the upstream counted.
  const bool believed = completion_ && !capped_ && (*completion_ > 0 || estimate == 0);
  usage.completion_tokens = believed ? *completion_ : estimate;
  usage.cached_tokens = std::min(cached_.value_or(0), usage.prompt_tokens);
  usage.written_tokens = std::min(written_.value_or(0), usage.prompt_tokens - usage.cached_tokens);
  usage.hour_tokens = std::min(hour_.value_or(0), usage.written_tokens);
  usage.reasoning_tokens = std::min(reasoning_.value_or(tokens_of(reasoning_quarters_)), usage.completion_tokens);
  usage.accepted_tokens = accepted_;
  usage.rejected_tokens = rejected_;
  usage.estimated = !believed || !prompt_ || (*prompt_ == 0 && prompt_estimate_ > 0);
  if (prompt_ && *prompt_ == 0) usage.prompt_tokens = prompt_estimate_;
  events_.emplace_back(engine::Finished{.usage = usage});
  over_ = true;
}

void Teller::fail(Failure failure) {
  if (!over_ && !failure_) failure_ = std::make_unique<const Failure>(std::move(failure));
}

}  // namespace ashlar::gateway
