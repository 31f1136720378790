// Kind `azure`: OpenAI's models at Azure: a path for each deployment, an api-version, a header for the key.
#include <fmt/format.h>

#include <utility>

#include "gateway/upstreams/openai.h"
#include "store/wire.h"

namespace ashlar::gateway {
namespace {

class Azure final : public Wire {
 public:
  Azure(const UpstreamOptions& options, UpstreamSecrets secrets)
      : base_(base_url(options)),
        version_(options.api_version.empty() ? "2024-10-21" : options.api_version),
        form_{.stream = options.stream,
              .most = version_ < "2024-09" ? kOlderMost : kNewerMost},  // the first that knows it: 2024-09-01-preview
        headers_{{"content-type", "application/json"}} {
    if (!secrets.api_key.empty()) headers_.emplace_back("api-key", secrets.api_key);
  }

  Result<net::ClientRequest> ask(const engine::Request& request, const std::string& model) const override {
    const bool chat = std::holds_alternative<engine::Chat>(request.prompt.input);
    return post(model, chat ? "chat/completions" : "completions", openai_text(request, model, form_));
  }
  std::unique_ptr<Reader> reader(const engine::Request& request, const net::Headers& headers,
                                 Teller& teller) const override {
    return make_openai_reader(request, headers, teller);
  }
  // What it lists are the models of the region, not our deployments.
  net::ClientRequest probe() const override {
    return {.url = fmt::format("{}/openai/models?api-version={}", base_, store::percent_encode(version_, false)),
            .headers = headers_};
  }
  bool lists() const override { return false; }
  Result<std::vector<Listed>> read_list(std::string_view body) const override { return read_openai_list(body); }

  Result<net::ClientRequest> ask_vectors(const engine::EmbedRequest& request, const std::string& model) const override {
    return post(model, "embeddings", openai_vectors_text(request, model));
  }
  Result<engine::Embeddings> read_vectors(std::string_view body, std::size_t count) const override {
    return read_openai_vectors(body, count);
  }

 private:
  net::ClientRequest post(const std::string& deployment, std::string_view path, std::string body) const {
    return {.method = "POST",
            .url = fmt::format("{}/openai/deployments/{}/{}?api-version={}", base_,
                               store::percent_encode(deployment, false), path, store::percent_encode(version_, false)),
            .headers = headers_,
            .body = std::move(body)};
  }

  const std::string base_, version_;
  const OpenAiForm form_;
  net::Headers headers_;
};

}  // namespace

std::unique_ptr<Wire> make_azure(const UpstreamOptions& options, UpstreamSecrets secrets) {
  return std::make_unique<Azure>(options, std::move(secrets));
}

}  // namespace ashlar::gateway
