// How one kind of server is spoken to: our requests in its words, its answers as events. A file for each kind.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "engine/embedder.h"
#include "engine/generator.h"
#include "gateway/upstreams/options.h"
#include "gateway/upstreams/teller.h"
#include "net/http_client.h"

namespace ashlar::gateway {

// The secrets of an upstream's options, read.
struct UpstreamSecrets {
  std::string api_key, access_key, secret_key, session_token;
};
// invalid, not_found...: names the upstream and which of them.
Result<UpstreamSecrets> read_secrets(const UpstreamOptions& options);

// Reads one answer whose status is 200, in pieces as they come, and tells what it finds. One thread at a time.
class Reader {
 public:
  virtual ~Reader() = default;
  virtual void read(std::string_view bytes) = 0;
  virtual void end() = 0;  // the body is whole
};

// A model that an upstream lists.
struct Listed {
  std::string id;
  int context = 0;
  std::int64_t created = 0, parameters = 0;
  int embedding = 0;
  bool generates = true;
};

// Immutable; any thread.
class Wire {
 public:
  virtual ~Wire() = default;

  // The HTTP request for `request`, whose model is called `model` there; not signed yet. unsupported, invalid: what
  // this kind cannot be asked.
  virtual Result<net::ClientRequest> ask(const engine::Request& request, const std::string& model) const = 0;
  // `teller` outlives it; `request` need not.
  virtual std::unique_ptr<Reader> reader(const engine::Request& request, const net::Headers& headers,
                                         Teller& teller) const = 0;
  // What belongs to one attempt alone, such as a signature with the time. `request` is ready to be sent otherwise.
  virtual void sign(net::ClientRequest&) const {}

  // A GET that tells whether it lives, and (where `lists()`) what it serves.
  virtual net::ClientRequest probe() const = 0;
  virtual bool lists() const { return true; }
  // corrupt: no such list.
  virtual Result<std::vector<Listed>> read_list(std::string_view body) const = 0;

  // A GET for its page of metrics (told_load.h); nullopt: this kind has none.
  virtual std::optional<net::ClientRequest> ask_load() const { return std::nullopt; }

  // A GET for what an Ashlar has in the prefix cache of `model`, since what is known of it (prefix_copy.h); nullopt:
  // this kind is none.
  virtual std::optional<net::ClientRequest> ask_prefixes(const std::string& model, std::uint64_t book,
                                                         std::uint64_t sequence) const;

  virtual Result<net::ClientRequest> ask_vectors(const engine::EmbedRequest& request, const std::string& model) const;
  // corrupt: not `count` vectors of one length. Estimates no tokens: prompt_tokens is 0 where they are not said.
  virtual Result<engine::Embeddings> read_vectors(std::string_view body, std::size_t count) const;
};

// options.kind is one of upstream_kinds().
std::unique_ptr<Wire> make_wire(const UpstreamOptions& options, UpstreamSecrets secrets);
std::vector<std::string> upstream_kinds();
// Where a kind lives if its options name no url; empty: it must be said.
std::string default_url(const UpstreamOptions& options);

// --- for the kinds

// `options.url` (or the kind's default) without a "/" at its end, and `instead_of_none` behind it where it has no path.
std::string base_url(const UpstreamOptions& options, std::string_view instead_of_none = "");

// The request's body in OpenAI's form: as its client wrote it, or made from the fields; with messages and tools, the
// most tokens and n by the fields. `model` and whether to stream are the caller's to say.
Json openai_body(const engine::Request& request);

// A member of an object; null if it is absent, null, or `object` is none.
const Json* find_member(const Json& object, std::string_view name);
std::string_view string_member(const Json& object, std::string_view name);  // "" if it is no string
// A tool call's arguments, an object or a JSON text, as the one or the other. Text that is no object: {"input": text}.
Json arguments_object(const Json* arguments);
std::string arguments_text(const Json* arguments);
// All text of a message's content: a string, or the texts of its parts.
std::string content_text(const Json& content);
// "data:image/png;base64,AAAA" taken apart; nullopt: another address.
struct DataUrl {
  std::string_view media, base64;
};
std::optional<DataUrl> data_url(std::string_view url);
// JSON of an answer within what is borne of upstreams.
Result<Json> parse_answer(std::string_view text);
engine::FinishReason finish_reason(std::string_view name);

// OpenAI's list of vectors, which most kinds have.
Result<engine::Embeddings> read_openai_vectors(std::string_view body, std::size_t count);

// The kinds' makers.
std::unique_ptr<Wire> make_openai(const UpstreamOptions& options, UpstreamSecrets secrets);
std::unique_ptr<Wire> make_ollama(const UpstreamOptions& options, UpstreamSecrets secrets);
std::unique_ptr<Wire> make_anthropic(const UpstreamOptions& options, UpstreamSecrets secrets);
std::unique_ptr<Wire> make_azure(const UpstreamOptions& options, UpstreamSecrets secrets);
std::unique_ptr<Wire> make_bedrock(const UpstreamOptions& options, UpstreamSecrets secrets);
std::unique_ptr<Wire> make_dashscope(const UpstreamOptions& options, UpstreamSecrets secrets);

}  // namespace ashlar::gateway
