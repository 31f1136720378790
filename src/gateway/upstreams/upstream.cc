#include "gateway/upstreams/upstream.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "gateway/upstreams/errand.h"
#include "gateway/upstreams/flight.h"
#include "gateway/upstreams/state.h"

namespace ashlar::gateway {
namespace {

engine::Generator::Refusal down(const UpstreamState& state) {
  return {
      .error = {Code::unavailable, fmt::format("the upstream '{}' is down: {}", state.options.name, state.trouble())},
      .retry_after = state.options.health_interval,
      .reason = "upstream_down"};
}

engine::Generator::Refusal unknown(const UpstreamState& state, const std::string& model) {
  return {.error = {Code::not_found, fmt::format("the upstream '{}' serves no model '{}'", state.options.name, model)},
          .reason = "model_not_found"};
}

Error not_here(const std::string& model) {
  return {Code::unsupported,
          fmt::format("the model '{}' is another server's, which alone knows its tokens and template", model)};
}

}  // namespace

Upstream::Upstream(std::shared_ptr<UpstreamState> state) : state_(std::move(state)) {}
Upstream::~Upstream() = default;

Result<std::unique_ptr<Upstream>> Upstream::create(UpstreamOptions options) {
  auto state = TRY(UpstreamState::create(std::move(options)));
  state->begin_probes();
  return std::unique_ptr<Upstream>(new Upstream(std::move(state)));
}

const std::string& Upstream::name() const { return state_->options.name; }
void Upstream::when_probed(std::function<void()> told) { state_->when_probed(std::move(told)); }
Standing Upstream::standing() const { return state_->standing(); }
std::string Upstream::trouble() const { return state_->trouble(); }

std::expected<std::unique_ptr<engine::Ticket>, engine::Generator::Refusal> Upstream::start(engine::Request request,
                                                                                           engine::Sink& sink) {
  auto model = state_->model(request.model);
  if (!model) return std::unexpected(unknown(*state_, request.model));
  if (!state_->healthy()) return std::unexpected(down(*state_));
  return take_off(state_, std::move(request), std::move(*model), sink);
}

std::vector<engine::ModelCard> Upstream::models() const { return state_->cards(); }
std::optional<engine::ModelCard> Upstream::card(const std::string& model) const { return state_->card(model); }
std::optional<std::uint64_t> Upstream::names_version() const { return state_->cards_version(); }

Result<engine::Tokenized> Upstream::tokenize(const std::string& model, const engine::Prompt&, bool) const {
  return not_here(model);
}
Result<std::string> Upstream::detokenize(const std::string& model, const std::vector<std::int32_t>&) const {
  return not_here(model);
}
Result<std::string> Upstream::render(const std::string& model, const engine::Chat&) const { return not_here(model); }

std::shared_ptr<const engine::CachedPrefixes> Upstream::cached_prefixes(const std::string& model) const {
  return state_->cached_prefixes(model);
}

engine::Generator::Load Upstream::load() const {
  const ToldLoad told = state_->told_load();
  return {.running = state_->budget.active(),
          .waiting = told.waiting,
          .kv_used = told.kv_used,
          .healthy = state_->healthy()};
}

void Upstream::embed(engine::EmbedRequest request, Done done) {
  const auto model = state_->model(request.model);
  if (!model) return done(std::unexpected(unknown(*state_, request.model)));
  if (!state_->healthy()) return done(std::unexpected(down(*state_)));
  run_errand(*state_, std::move(request), *model, std::move(done));
}

}  // namespace ashlar::gateway
