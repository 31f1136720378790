#include "gateway/routing/response_cache.h"

#include <openssl/evp.h>

#include <algorithm>
#include <charconv>
#include <new>
#include <type_traits>
#include <utility>

#include "base/json_full.h"
#include "base/metrics.h"
#include "net/http_text.h"

namespace ashlar::gateway {
namespace {

struct CacheMetrics {
  Counter hits{"gateway_response_cache_hits_total", "Answers given from the response cache."};
  Counter stale{"gateway_response_cache_stale_total",
                "Answers beyond their time, given while every deployment was out."};
  Counter misses{"gateway_response_cache_misses_total", "Questions that the response cache had no answer to."};
  Gauge bytes{"gateway_response_cache_bytes", "What the kept answers take."};
};
CacheMetrics metrics;

// Each part with its length before it, so that no two lists of parts give the same bytes.
class Digest {
 public:
  Digest() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    if (!context_ || EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) != 1) throw std::bad_alloc();
  }
  void add(std::string_view text) {
    number(text.size());
    EVP_DigestUpdate(context_.get(), text.data(), text.size());
  }
  template <class T>
    requires std::is_arithmetic_v<T>
  void number(T value) {
    EVP_DigestUpdate(context_.get(), &value, sizeof value);
  }
  template <class T>
  void numbers(const std::vector<T>& values) {
    number(values.size());
    EVP_DigestUpdate(context_.get(), values.data(), values.size() * sizeof(T));
  }
  void texts(std::vector<std::string> values) {
    number(values.size());
    for (const std::string& value : values) add(value);
  }
  void json(const std::shared_ptr<const Json>& json) { add(json ? dump_json(*json) : ""); }
  std::string done() {
    std::string out(32, '\0');
    EVP_DigestFinal_ex(context_.get(), reinterpret_cast<unsigned char*>(out.data()), nullptr);
    return out;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context_;
};

void add_prompt(Digest& digest, const engine::Prompt& prompt) {
  digest.number(prompt.input.index());
  digest.number(prompt.add_special_tokens);
  if (const auto* text = std::get_if<std::string>(&prompt.input)) return digest.add(*text);
  if (const auto* ids = std::get_if<std::vector<std::int32_t>>(&prompt.input)) return digest.numbers(*ids);
  const auto& chat = std::get<engine::Chat>(prompt.input);
  digest.json(chat.messages);
  digest.json(chat.tools);
  digest.json(chat.template_kwargs);
  digest.add(chat.chat_template);
  digest.number(chat.add_generation_prompt);
  digest.number(chat.continue_final_message);
  digest.number(chat.add_special_tokens);
}

void add_sampling(Digest& digest, const engine::Sampling& sampling) {
  digest.number(sampling.temperature);
  digest.number(sampling.top_k);
  for (const float each : {sampling.top_p, sampling.min_p, sampling.typical_p, sampling.repetition_penalty,
                           sampling.presence_penalty, sampling.frequency_penalty})
    digest.number(each);
  digest.number(sampling.logit_bias.size());
  for (const auto& [id, bias] : sampling.logit_bias) {
    digest.number(id);
    digest.number(bias);
  }
  digest.numbers(sampling.allowed_token_ids);
  digest.number(sampling.seed.has_value());
  digest.number(sampling.seed.value_or(0));
}

void add_stopping(Digest& digest, const engine::Stopping& stopping) {
  digest.number(stopping.max_tokens);
  digest.number(stopping.min_tokens);
  digest.texts(stopping.stop);
  digest.numbers(stopping.stop_token_ids);
  digest.number(stopping.ignore_eos);
  digest.number(stopping.include_stop_in_output);
}

// What upstreams get beyond the fields, but for what says only how the answer is sent, or who asked.
void add_body(Digest& digest, const std::shared_ptr<const Json>& body) {
  constexpr std::string_view kNotOfTheAnswer[] = {"stream",   "stream_options", "user",     "safety_identifier",
                                                  "metadata", "request_id",     "priority", "keep_alive"};
  if (!body || !body->is_object()) return digest.json(body);
  for (const auto& [name, value] : body->items()) {
    if (std::ranges::find(kNotOfTheAnswer, name) != std::end(kNotOfTheAnswer)) continue;
    digest.add(name);
    digest.add(dump_json(value));
  }
}

std::size_t bytes_of(const std::vector<engine::TokenLogprob>& logprobs) {
  std::size_t bytes = 0;
  for (const auto& each : logprobs)
    bytes += sizeof each + each.bytes.capacity() + each.top.size() * sizeof(each.top[0]);
  return bytes;
}

}  // namespace

std::string response_key(const engine::Request& request, const std::string& group, const RouteHints& hints) {
  Digest digest;
  digest.add(request.tenant);
  digest.add(request.cache_salt);
  digest.add(group);
  digest.add(request.model);
  digest.add(hints.adapter);
  std::vector<std::string> classes = hints.data_classes;
  std::ranges::sort(classes);
  digest.texts(std::move(classes));
  add_prompt(digest, request.prompt);
  add_sampling(digest, request.sampling);
  add_stopping(digest, request.stopping);
  digest.number(request.n);
  digest.number(request.logprobs);
  digest.number(request.prompt_logprobs);
  digest.number(request.skip_special_tokens);
  digest.number(request.echo);
  add_body(digest, request.body);
  return digest.done();
}

bool repeatable(const engine::Request& request, const CacheControl& control) {
  return control.wanted || request.sampling.temperature == 0 || request.sampling.seed.has_value();
}

CacheControl read_cache_control(std::string_view header) {
  CacheControl control;
  while (!header.empty()) {
    const std::string_view part = net::take_item(header);
    const std::size_t equal = std::min(part.find('='), part.size());
    const std::string_view word = net::trim(part.substr(0, equal));
    if (net::equals_ignoring_case(word, "no-cache")) control.no_cache = true;
    if (net::equals_ignoring_case(word, "no-store")) control.no_store = true;
    if (!net::equals_ignoring_case(word, "max-age") || equal == part.size()) continue;
    std::string_view value = net::trim(part.substr(equal + 1));
    if (value.size() >= 2 && value.front() == '"' && value.back() == '"') value = value.substr(1, value.size() - 2);
    // What cannot be read asks for something fresh (RFC 9111, 4.2.1); a number beyond all bounds is without bound.
    std::uint32_t seconds = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), seconds);
    if (error == std::errc::result_out_of_range) seconds = UINT32_MAX;
    const bool whole = end == value.data() + value.size() && error != std::errc::invalid_argument;
    control.max_age = std::chrono::seconds{whole ? seconds : 0};
  }
  return control;
}

std::size_t bytes_of(const engine::Event& event) {
  std::size_t bytes = sizeof event;
  if (const auto* text = std::get_if<engine::Text>(&event))
    bytes += text->text.capacity() + text->ids.capacity() * sizeof(std::int32_t) + bytes_of(text->logprobs);
  if (const auto* started = std::get_if<engine::Started>(&event))
    bytes += started->prompt_ids.capacity() * sizeof(std::int32_t) + bytes_of(started->prompt_logprobs);
  if (const auto* thought = std::get_if<engine::Reasoning>(&event)) bytes += thought->text.capacity();
  if (const auto* call = std::get_if<engine::ToolCall>(&event))
    bytes += call->id.capacity() + call->name.capacity() + call->arguments.capacity();
  if (const auto* members = std::get_if<engine::Members>(&event)) bytes += 4 * dump_json(*members->json).size();
  return bytes;
}

ResponseCache::Found ResponseCache::find(const std::string& key, const CacheControl& control, bool degraded,
                                         TimePoint now) {
  const auto found = index_.find(key);
  if (found != index_.end()) {
    const Place place = found->second;
    const auto age = now - place->stored;
    if (age > options_.ttl + options_.stale_for) {
      drop(place);
    } else {
      const bool wanted = !control.no_cache && (!control.max_age || age <= *control.max_age);
      const bool fresh = wanted && age <= options_.ttl;
      if (fresh || (wanted && degraded)) {
        entries_.splice(entries_.end(), entries_, place);
        (fresh ? metrics.hits : metrics.stale).add();
        ++(fresh ? counts_.hits : counts_.stale);
        return {.answer = place->answer, .stale = !fresh, .age = age};
      }
    }
  }
  ++counts_.misses;
  metrics.misses.add();
  return {};
}

void ResponseCache::store(const std::string& key, Answer answer, TimePoint now) {
  std::size_t bytes = sizeof(Entry) + key.size() * 2 + 64;
  for (const engine::Event& event : *answer) bytes += bytes_of(event);
  if (!on() || bytes > options_.most_entry_bytes || bytes > options_.most_bytes) return;
  if (const auto found = index_.find(key); found != index_.end()) drop(found->second);
  while (counts_.bytes + bytes > options_.most_bytes) {
    drop(entries_.begin());
    ++counts_.evicted;
  }
  entries_.push_back({key, std::move(answer), bytes, now});
  index_[key] = std::prev(entries_.end());
  counts_.bytes += bytes;
  counts_.entries = entries_.size();
  ++counts_.stored;
  metrics.bytes.set(static_cast<double>(counts_.bytes));
}

void ResponseCache::drop(Place place) {
  counts_.bytes -= place->bytes;
  index_.erase(place->key);
  entries_.erase(place);
  counts_.entries = entries_.size();
  metrics.bytes.set(static_cast<double>(counts_.bytes));
}

}  // namespace ashlar::gateway
