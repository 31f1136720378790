#include "gateway/litellm/providers.h"

#include <algorithm>
#include <cctype>
#include <string_view>

namespace ashlar::gateway {
namespace {

struct Provider {
  std::string_view name, kind, url, key_variable;
};

// The addresses are those of the providers' own documentation.
constexpr Provider kProviders[] = {
    {"openai", "openai", "https://api.openai.com/v1", "OPENAI_API_KEY"},
    {"text-completion-openai", "openai", "https://api.openai.com/v1", "OPENAI_API_KEY"},
    {"azure", "azure", "", "AZURE_API_KEY"},
    {"anthropic", "anthropic", "", "ANTHROPIC_API_KEY"},
    {"bedrock", "bedrock", "", ""},
    {"ollama", "ollama", "http://127.0.0.1:11434", ""},
    {"ollama_chat", "ollama", "http://127.0.0.1:11434", ""},
    {"dashscope", "dashscope", "", "DASHSCOPE_API_KEY"},
    {"groq", "openai", "https://api.groq.com/openai/v1", "GROQ_API_KEY"},
    {"mistral", "openai", "https://api.mistral.ai/v1", "MISTRAL_API_KEY"},
    {"deepseek", "openai", "https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"},
    {"together_ai", "openai", "https://api.together.xyz/v1", "TOGETHERAI_API_KEY"},
    {"fireworks_ai", "openai", "https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"},
    {"openrouter", "openai", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"},
    {"perplexity", "openai", "https://api.perplexity.ai", "PERPLEXITYAI_API_KEY"},
    {"xai", "openai", "https://api.x.ai/v1", "XAI_API_KEY"},
    {"cerebras", "openai", "https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"},
    {"nvidia_nim", "openai", "https://integrate.api.nvidia.com/v1", "NVIDIA_NIM_API_KEY"},
    {"deepinfra", "openai", "https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"},
    {"sambanova", "openai", "https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY"},
    {"gemini", "openai", "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"},
    {"moonshot", "openai", "https://api.moonshot.ai/v1", "MOONSHOT_API_KEY"},
    {"volcengine", "openai", "https://ark.cn-beijing.volces.com/api/v3", "VOLCENGINE_API_KEY"},
    {"hosted_vllm", "openai", "", ""},
    {"vllm", "openai", "", ""},
    {"openai_like", "openai", "", ""},
    {"custom_openai", "openai", "", ""},
    {"lm_studio", "openai", "", ""},
    {"llamafile", "openai", "", ""},
    {"xinference", "openai", "", ""},
    {"litellm_proxy", "openai", "", ""},
};

const Provider* find(std::string_view name) {
  const auto found = std::ranges::find(kProviders, name, &Provider::name);
  return found == std::end(kProviders) ? nullptr : &*found;
}

// Letters, digits, '-' and '_'.
std::string as_name(std::string_view text) {
  std::string out;
  for (const unsigned char c : text.substr(0, 60))
    out.push_back(std::isalnum(c) || c == '_' || c == '-' ? static_cast<char>(c) : '-');
  return out.empty() ? "upstream" : out;
}

}  // namespace

LitellmPlace litellm_place(const std::string& model, const std::string& provider, bool has_address) {
  const auto slash = model.find('/');
  std::string_view prefix = provider, name = model;
  if (provider.empty() && slash != model.npos) {
    prefix = std::string_view(model).substr(0, slash);
    name = std::string_view(model).substr(slash + 1);
  } else if (!provider.empty() && model.starts_with(provider + "/")) {
    name = name.substr(provider.size() + 1);
  }
  // A name alone is one of those that everybody knows.
  if (prefix.empty()) prefix = model.starts_with("claude") ? "anthropic" : "openai";
  const Provider* found = find(prefix);
  if (found == nullptr) {
    if (!has_address) return {};
    return {.provider = as_name(prefix),
            .kind = "openai",
            .url = {},
            .key_variable = {},
            .model = std::string(name),
            .known = false};
  }
  for (const std::string_view route : {"converse/", "invoke/", "converse_like/"})
    if (found->kind == "bedrock" && name.starts_with(route)) name.remove_prefix(route.size());
  const bool somewhere = has_address || !found->url.empty() || found->kind != "openai";
  if (!somewhere) return {};
  return {.provider = as_name(prefix),
          .kind = std::string(found->kind),
          .url = std::string(found->url),
          .key_variable = std::string(found->key_variable),
          .model = std::string(name)};
}

}  // namespace ashlar::gateway
