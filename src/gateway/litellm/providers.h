// What LiteLLM calls its providers, and what they are with us.
#pragma once

#include <string>

namespace ashlar::gateway {

struct LitellmPlace {
  std::string provider;      // fit to be an upstream's name
  std::string kind;          // of upstream; "": nobody knows where it is
  std::string url;           // where it is unless somebody says otherwise; "": the kind knows, or nobody
  std::string key_variable;  // where LiteLLM looks for its key
  std::string model;         // as the provider calls it
  bool known = true;         // false: taken as an OpenAI-compatible server since it has an address
};

// `model`: "provider/name", or a name alone. `provider`: custom_llm_provider, or "".
LitellmPlace litellm_place(const std::string& model, const std::string& provider, bool has_address);

}  // namespace ashlar::gateway
