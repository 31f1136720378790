#include "gateway/upstreams/state.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "gateway/upstreams/addresses.h"
#include "gateway/upstreams/proxied.h"
#include "gateway/upstreams/secrets.h"
#include "net/http_text.h"
#include "net/url.h"

namespace ashlar::gateway {
namespace {

constexpr std::size_t kMaxProbe = 8 << 20;
constexpr std::chrono::milliseconds kProbeTimeout{5'000};

engine::ModelCard card_of(const UpstreamOptions& options, const std::string& name, const std::string& model) {
  return {.id = name,
          .context = options.context,
          .has_chat_template = true,
          .root = model,
          .foreign = true,
          .owner = options.name};
}

bool is_local(const std::string& url) {
  const auto parsed = net::parse_url(url);
  return parsed && parsed->is_this_machine();
}

// The host's own path instead of the URL's.
std::string at_path(const std::string& url, const std::string& path) {
  const auto begin = url.find("://");
  return url.substr(0, url.find('/', begin + 3)) + path;
}

}  // namespace

UpstreamState::UpstreamState(UpstreamOptions given, std::unique_ptr<Wire> wire)
    : options(std::move(given)),
      budget(options.retry_budget, options.retry_floor),
      metrics(options.name),
      wire_(std::move(wire)),
      url_is_local_(is_local(base_url(options))) {
  auto cards = std::make_shared<std::vector<engine::ModelCard>>();
  for (const auto& [name, model] : options.models) cards->push_back(card_of(options, name, model));
  cards_ = std::move(cards);
  metrics.healthy.set(options.health_interval.count() > 0 ? 0 : 1);
}

// The client, the last member, dies first; until its thread has ended its callbacks use the pointer, which reset()
// would take from them too soon.
UpstreamState::~UpstreamState() = default;

Result<std::shared_ptr<UpstreamState>> UpstreamState::create(UpstreamOptions options) {
  UpstreamSecrets secrets = TRY(read_secrets(options));
  for (auto& [name, value] : options.headers)
    if (check_secret(value)) value = TRY(read_secret(value));
  const bool tls = TRY(net::parse_url(base_url(options))).tls;
  net::ProxyRules proxies = TRY(read_proxy(options));
  auto wire = make_wire(options, std::move(secrets));
  auto client = TRY(net::HttpClient::create({.connect_timeout = options.connect_timeout,
                                             .http2 = options.http2,
                                             .max_body = options.max_answer,
                                             .tls_ca = options.tls_ca,
                                             .tls_verify = tls && options.tls_verify,  // else no authorities are read
                                             .proxies = std::move(proxies)}));
  std::shared_ptr<UpstreamState> state(new UpstreamState(std::move(options), std::move(wire)));
  state->client_ = std::move(client);
  return state;
}

net::ClientRequest UpstreamState::outgoing(net::ClientRequest request, std::chrono::milliseconds silence) const {
  for (const auto& header : options.headers) {
    std::erase_if(request.headers, [&](const auto& each) { return each.first == header.first; });
    request.headers.push_back(header);
  }
  wire_->sign(request);
  request.connect_timeout = options.connect_timeout;
  request.response_timeout = silence;
  request.repeatable = true;
  {
    const std::lock_guard lock(mutex_);
    request.address = address_;
  }
  request.admit = [local = url_is_local_, allowed = options.allow_private](const std::string& address) {
    return check_address(address, local, allowed);
  };
  return request;
}

void UpstreamState::connected(const std::string& address) {
  const std::lock_guard lock(mutex_);
  address_ = address;
}

void UpstreamState::unreachable() {
  const std::lock_guard lock(mutex_);
  address_.clear();
}

std::optional<std::string> UpstreamState::model(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto found = std::ranges::find(*cards_, name, &engine::ModelCard::id);
  if (found == cards_->end()) return std::nullopt;
  return found->root;
}

std::optional<engine::ModelCard> UpstreamState::card(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto found = std::ranges::find(*cards_, name, &engine::ModelCard::id);
  if (found == cards_->end()) return std::nullopt;
  return *found;
}

std::vector<engine::ModelCard> UpstreamState::cards() const {
  const std::lock_guard lock(mutex_);
  return *cards_;
}

std::string UpstreamState::trouble() const {
  const std::lock_guard lock(mutex_);
  return healthy_ && known_ ? std::string() : trouble_;
}

Standing UpstreamState::standing() const {
  if (!known_) return Standing::unknown;
  return healthy_ ? Standing::up : Standing::down;
}

void UpstreamState::when_probed(std::function<void()> told) {
  {
    const std::lock_guard lock(mutex_);
    if (!probed_ && options.health_interval.count() > 0) {
      waiting_.push_back(std::move(told));
      return;
    }
  }
  told();
}

void UpstreamState::begin_probes() {
  if (options.health_interval.count() > 0)
    probe_begin_ = client_->after(std::chrono::milliseconds(0), [this] { probe(); });
  if (options.blocks_interval.count() > 0)
    watch_begin_ = client_->after(std::chrono::milliseconds(0), [this] { watch_prefixes(0); });
  if (options.load_interval.count() > 0)
    load_begin_ = client_->after(std::chrono::milliseconds(0), [this] { watch_load(); });
}

void UpstreamState::watch_load() {
  auto request = wire_->ask_load();
  if (!request) return;
  request->timeout = std::min(kProbeTimeout, options.connect_timeout);
  load_status_ = 0;
  load_body_.clear();
  load_ = client_->send(outgoing(std::move(*request), kProbeTimeout),
                        {.on_connect = [this](const std::string& address) { connected(address); },
                         .on_head = [this](int status, const net::Headers&) { load_status_ = status; },
                         .on_data =
                             [this](std::string_view piece) {
                               if (load_body_.size() + piece.size() <= kMaxProbe) load_body_.append(piece);
                             },
                         .on_done = [this](Status done) { load_told(std::move(done)); }});
}

// Who answers and does not tell is not asked again.
void UpstreamState::load_told(Status call) {
  const bool answered = call && load_status_ < 500 && load_status_ != 429;
  const auto told = answered && load_status_ == 200 ? read_told_load(load_body_) : std::nullopt;
  told_waiting_ = told ? told->waiting : 0;
  told_memory_ = told ? told->kv_used : 0;
  if (answered && !told) return;
  load_pause_ = client_->after(options.load_interval, [this] { watch_load(); });
}

void UpstreamState::probe() {
  net::ClientRequest request = wire_->probe();
  if (!options.health_path.empty()) request.url = at_path(request.url, options.health_path);
  request.timeout = std::min(kProbeTimeout, options.connect_timeout);
  probe_status_ = 0;
  probe_body_.clear();
  probe_ = client_->send(outgoing(std::move(request), kProbeTimeout),
                         {.on_connect = [this](const std::string& address) { connected(address); },
                          .on_head = [this](int status, const net::Headers&) { probe_status_ = status; },
                          .on_data =
                              [this](std::string_view piece) {
                                if (probe_body_.size() + piece.size() <= kMaxProbe) probe_body_.append(piece);
                              },
                          .on_done = [this](Status done) { probed(probe_status_, probe_body_, std::move(done)); }});
}

// What answers lives, though it may want a key or know no such path: only silence and its own errors count against it.
void UpstreamState::probed(int status, const std::string& body, Status call) {
  const bool fine = call && status < 500 && status != 429;
  const bool limited = call && status == 429;
  if (fine && status == 200 && options.health_path.empty() && wire_->lists()) {
    if (const auto listed = wire_->read_list(body)) learn(*listed);
  }
  if (!call && status == 0) unreachable();
  failures_ = fine || limited ? 0 : failures_ + 1;
  const bool now = failures_ == 0 ? true : (failures_ >= options.health_failures ? false : healthy_.load());
  std::vector<std::function<void()>> told;
  bool first = false;
  {
    const std::lock_guard lock(mutex_);
    first = !probed_;
    trouble_ = fine || limited ? ""
               : !call         ? call.error().message
                               : fmt::format("it answers its probe with {} {}", status, net::reason(status));
    probed_ = true;
    told.swap(waiting_);
  }
  if (healthy_.exchange(now) != now || (first && failures_ == 1))
    log::write(failures_ == 0 ? log::Level::info : log::Level::warn,
               failures_ == 0 ? "upstream_up" : (now ? "upstream_in_trouble" : "upstream_down"),
               {{"upstream", options.name}, {"why", failures_ == 0 ? std::string() : trouble_}});
  if (first && failures_ == 0 && cards().empty())
    log::warn("upstream_lists_nothing", {{"upstream", options.name}, {"status", status}});
  if (failures_ == 0 || !now) known_ = true;
  metrics.healthy.set(now && known_ ? 1 : 0);
  for (const auto& tell : told) tell();
  pause_ = client_->after(options.health_interval, [this] { probe(); });
}

std::shared_ptr<const engine::CachedPrefixes> UpstreamState::cached_prefixes(const std::string& name) {
  if (options.blocks_interval.count() == 0) return nullptr;
  const auto model = this->model(name);
  if (!model) return nullptr;
  const std::lock_guard lock(mutex_);
  auto found = std::ranges::find(watched_, *model, &Watched::model);
  if (found == watched_.end()) found = watched_.insert(found, {.model = *model});
  return found->copy->told() ? found->copy : nullptr;
}

// Asks for one model after the other, then waits.
void UpstreamState::watch_prefixes(std::size_t next) {
  std::optional<Watched> one;
  {
    const std::lock_guard lock(mutex_);
    if (next < watched_.size()) one = watched_[next];
  }
  if (!one) {
    watch_pause_ = client_->after(options.blocks_interval, [this] { watch_prefixes(0); });
    return;
  }
  const PrefixCopy::Place known = one->copy->place();
  auto request = wire_->ask_prefixes(one->model, known.book, known.sequence);
  if (!request) return;
  request->timeout = std::min(kProbeTimeout, options.connect_timeout);
  watch_status_ = 0;
  watch_body_.clear();
  watch_ = client_->send(outgoing(std::move(*request), kProbeTimeout),
                         {.on_connect = [this](const std::string& address) { connected(address); },
                          .on_head = [this](int status, const net::Headers&) { watch_status_ = status; },
                          .on_data =
                              [this](std::string_view piece) {
                                if (watch_body_.size() + piece.size() <= kMaxProbe) watch_body_.append(piece);
                              },
                          .on_done = [this, next, known](Status done) { watched(next, known, std::move(done)); }});
}

void UpstreamState::watched(std::size_t which, const PrefixCopy::Place& asked, Status call) {
  std::shared_ptr<PrefixCopy> copy;
  {
    const std::lock_guard lock(mutex_);
    copy = watched_[which].copy;
  }
  // Of one that cannot be reached, or has come anew, nothing is there until it says so.
  if (!call || watch_status_ >= 500) {
    copy->clear();
    watch_pause_ = client_->after(options.blocks_interval, [this] { watch_prefixes(0); });
    return;
  }
  Status taken;
  if (watch_status_ != 200)
    taken = std::unexpected(
        Error{Code::unsupported, fmt::format("it answers {} {}", watch_status_, net::reason(watch_status_))});
  else
    taken = copy->take(watch_body_, asked);
  if (!taken && copy->give_up())
    log::warn("upstream_tells_no_blocks", {{"upstream", options.name}, {"why", taken.error().message}});
  watch_pause_ = client_->after(std::chrono::milliseconds(0), [this, which] { watch_prefixes(which + 1); });
}

void UpstreamState::learn(const std::vector<Listed>& listed) {
  auto cards = std::make_shared<std::vector<engine::ModelCard>>();
  const auto add = [&](engine::ModelCard card) {
    if (const auto said = std::ranges::find(listed, card.root, &Listed::id); said != listed.end()) {
      if (card.context == 0) card.context = said->context;
      card.created = said->created;
      card.parameters = said->parameters;
      card.embedding = said->embedding;
      card.generates = said->generates;
    }
    cards->push_back(std::move(card));
  };
  if (options.models.empty())
    for (const Listed& each : listed) {
      const bool twice = std::ranges::find(*cards, each.id, &engine::ModelCard::id) != cards->end();
      if (!twice) add(card_of(options, each.id, each.id));
    }
  else
    for (const auto& [name, model] : options.models) add(card_of(options, name, model));
  const std::lock_guard lock(mutex_);
  if (!std::ranges::equal(*cards, *cards_, {}, &engine::ModelCard::id, &engine::ModelCard::id)) ++cards_version_;
  cards_ = std::move(cards);
}

}  // namespace ashlar::gateway
