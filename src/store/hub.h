// Where models come from. A hub is asked once what a reference stands for; what
// it says is hostile until it is checked here.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "store/courier.h"
#include "store/download.h"
#include "store/reference.h"

namespace ashlar::store {

// Where each hub is, and who we are there. The environment says it, in the
// variables that the hubs' own tools read; tokens come from nowhere else, so that
// no command line and no log shows them.
struct HubSettings {
  std::string hf_endpoint = "https://huggingface.co";
  std::string ms_endpoint = "https://modelscope.cn";
  std::string ollama_endpoint = "https://registry.ollama.ai";
  std::string s3_endpoint;  // "": Amazon's own
  std::string s3_region = "us-east-1";
  std::string hf_token, ms_token;
  std::string s3_key_id, s3_secret, s3_session;
};
// HF_ENDPOINT, HF_TOKEN (or the file that `hf auth login` writes), MODELSCOPE_ENDPOINT,
// MODELSCOPE_DOMAIN, MODELSCOPE_API_TOKEN, OLLAMA_REGISTRY, AWS_ENDPOINT_URL_S3,
// AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN.
HubSettings hub_settings_from_environment();

// A model as a hub offers it: the files that we want of it.
struct Listing {
  std::string endpoint;  // "https://huggingface.co"
  std::string version;   // a commit or the like: what `revision` stood for; "": the hub tells none
  std::string licence;   // as the hub names it; "": it does not
  std::vector<Wanted> files;
};

// What `reference` stands for now. Errors as Courier::ask(); unsupported: only
// files that are never fetched; not_found: no such model or file, with what there is.
Result<Listing> list_model(Courier& courier, const HubSettings& settings, const Reference& reference, const Poll& poll);

// A file as a hub lists it, before choosing.
struct Listed {
  std::string name;
  std::optional<std::uint64_t> size;
  std::string sha256, git_sha1;
};

// Of a repository's files those that make the model: `file` by name or by
// quantization; left out, the weights (safetensors, else the one GGUF or its
// Q4_K_M) with what belongs to them. A GGUF in parts comes with all its parts.
// Errors as list_model().
Result<std::vector<Listed>> choose_files(const std::string& repository, std::vector<Listed> files,
                                         const std::string& file);

// What each hub's answer says; `text` is hostile. corrupt: it is no such answer.
struct RepositoryListing {
  std::string version, licence;
  std::vector<Listed> files;
};
Result<RepositoryListing> read_hugging_face(std::string_view text);
Result<RepositoryListing> read_model_scope(std::string_view text);
Result<RepositoryListing> read_ollama(std::string_view text);

// The hubs, each with a file of its own under hubs/.
Result<Listing> list_hugging_face(Courier& courier, const HubSettings& settings, const Reference& reference,
                                  const Poll& poll);
Result<Listing> list_model_scope(Courier& courier, const HubSettings& settings, const Reference& reference,
                                 const Poll& poll);
Result<Listing> list_ollama(Courier& courier, const HubSettings& settings, const Reference& reference,
                            const Poll& poll);
Result<Listing> list_s3(Courier& courier, const HubSettings& settings, const Reference& reference, const Poll& poll);
Result<Listing> list_web(const Reference& reference);

// "Bearer ..." for an endpoint that may see it: under TLS, or on this machine.
net::Headers bearer(const std::string& endpoint, const std::string& token);

}  // namespace ashlar::store
