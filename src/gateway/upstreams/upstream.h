// One deployment at another server, as a generator.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/counted_names.h"
#include "engine/embedder.h"
#include "engine/generator.h"
#include "gateway/upstreams/options.h"
#include "gateway/upstreams/standing.h"

namespace ashlar::gateway {

class UpstreamState;

// Events come on the thread of its HTTP client, of which it has one. A request is tried again, or twice at once, only
// before its first token: what then goes wrong ends the stream with Failed. Dropping the ticket cancels the request
// there: its connection is closed. Tickets may outlive it. Any thread may call.
class Upstream final : public engine::Generator, public engine::Embedder, public engine::CountedNames {
 public:
  // Begins to probe; asks nothing yet. invalid, not_found...: the options or a secret are unfit.
  static Result<std::unique_ptr<Upstream>> create(UpstreamOptions options);
  ~Upstream() override;

  const std::string& name() const;
  // Calls `told` once the first probe has been answered or has failed; at once if it has. For start-up.
  void when_probed(std::function<void()> told);
  Standing standing() const;
  // Why it is down, or why its probes have failed so far; "": neither.
  std::string trouble() const;

  // unavailable at once while the probes say that it is down.
  std::expected<std::unique_ptr<engine::Ticket>, Refusal> start(engine::Request request, engine::Sink& sink) override;
  std::vector<engine::ModelCard> models() const override;
  std::optional<engine::ModelCard> card(const std::string& model) const override;
  std::optional<std::uint64_t> names_version() const override;
  // unsupported: texts and tokens are its server's matter.
  Result<engine::Tokenized> tokenize(const std::string&, const engine::Prompt&, bool) const override;
  Result<std::string> detokenize(const std::string&, const std::vector<std::int32_t>&) const override;
  Result<std::string> render(const std::string&, const engine::Chat&) const override;
  std::shared_ptr<const engine::CachedPrefixes> cached_prefixes(const std::string& model) const override;
  Load load() const override;

  void embed(engine::EmbedRequest request, Done done) override;

 private:
  explicit Upstream(std::shared_ptr<UpstreamState> state);
  const std::shared_ptr<UpstreamState> state_;
};

}  // namespace ashlar::gateway
