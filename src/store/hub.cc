#include "store/hub.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <set>

#include "net/http_text.h"
#include "net/url.h"
#include "store/files.h"
#include "store/names.h"
#include "store/wire.h"

namespace ashlar::store {
namespace {

std::string environment(std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (const char* value = std::getenv(name); value != nullptr && *value != '\0') return value;
  return "";
}

void set_from(std::string& field, std::initializer_list<const char*> names) {
  if (std::string value = environment(names); !value.empty()) field = std::move(value);
}

// "modelscope.cn" and "https://modelscope.cn/" too.
void set_endpoint(std::string& field, std::initializer_list<const char*> names) {
  set_from(field, names);
  while (field.ends_with('/')) field.pop_back();
  if (!field.empty() && field.find("://") == std::string::npos) field.insert(0, "https://");
}

std::string trimmed(std::string text) {
  const auto space = [](char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; };
  while (!text.empty() && space(text.back())) text.pop_back();
  while (!text.empty() && space(text.front())) text.erase(0, 1);
  return text;
}

// Where the hub's own tools keep it.
std::string hf_token() {
  if (auto token = environment({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}); !token.empty()) return trimmed(token);
  std::string path = environment({"HF_TOKEN_PATH"});
  if (path.empty())
    if (const auto home = environment({"HF_HOME"}); !home.empty()) path = home + "/token";
  if (path.empty())
    if (const auto home = environment({"HOME"}); !home.empty()) path = home + "/.cache/huggingface/token";
  return trimmed(read_small_file(path, 4096).value_or(""));
}

bool ends_with(std::string_view name, std::string_view ending) { return net::lower(name).ends_with(ending); }
bool is_gguf(std::string_view name) { return ends_with(name, ".gguf"); }
bool is_safetensors(std::string_view name) { return ends_with(name, ".safetensors"); }
bool in_top_folder(std::string_view name) { return name.find('/') == name.npos; }

// What tells how to read the weights, and under which terms.
bool belongs_to_weights(std::string_view name) {
  constexpr std::string_view kEndings[] = {".json", ".jinja", ".txt", ".model", ".tiktoken", ".md"};
  if (std::ranges::any_of(kEndings, [&](std::string_view each) { return ends_with(name, each); })) return true;
  const std::string lower = net::lower(name);
  return lower.starts_with("licen") || lower.starts_with("notice") || lower == "use_policy";
}

// "model-00002-of-00003.gguf" gives "model"; "": not a part.
std::string_view stem_of_part(std::string_view name) {
  constexpr std::size_t kTail = std::string_view("-00001-of-00001.gguf").size();
  if (name.size() <= kTail || !is_gguf(name)) return "";
  const auto tail = name.substr(name.size() - kTail);
  for (std::size_t i = 0; i < 15; ++i) {
    const char expected = "-00000-of-00000"[i];
    const bool fits = expected == '0' ? tail[i] >= '0' && tail[i] <= '9' : tail[i] == expected;
    if (!fits) return "";
  }
  return name.substr(0, name.size() - kTail);
}

// The models among the GGUF files, a split one under its first part.
std::vector<std::string> gguf_models(const std::vector<Listed>& files) {
  std::vector<std::string> names;
  std::set<std::string_view> split;
  for (const Listed& file : files) {
    if (!is_gguf(file.name) || net::lower(file.name).find("mmproj") != std::string::npos) continue;
    const auto stem = stem_of_part(file.name);
    if (stem.empty() || split.insert(stem).second) names.push_back(file.name);
  }
  return names;
}

// A quantization stands in a name between signs: "Q4_K" is not in "x-Q4_K_M.gguf".
bool names_quantization(std::string_view name, std::string_view tag) {
  const std::string lower = net::lower(name), wanted = net::lower(tag);
  const auto is_sign = [](char c) { return c == '-' || c == '.' || c == '/'; };
  for (std::size_t at = lower.find(wanted); at != lower.npos; at = lower.find(wanted, at + 1)) {
    const std::size_t end = at + wanted.size();
    const bool begins = at == 0 || is_sign(lower[at - 1]) || lower[at - 1] == '_';
    if (begins && (end == lower.size() || is_sign(lower[end]))) return true;
  }
  return false;
}

std::vector<Listed> with_parts(const std::vector<Listed>& files, const std::string& name) {
  const auto stem = stem_of_part(name);
  std::vector<Listed> out;
  for (const Listed& file : files)
    if (file.name == name || (!stem.empty() && stem_of_part(file.name) == stem)) out.push_back(file);
  return out;
}

Error choose_one(const std::string& repository, std::string_view why, const std::vector<std::string>& names) {
  std::vector<std::string> shown;
  for (const std::string& name : names) {
    if (shown.size() == 40) {
      shown.emplace_back("...");
      break;
    }
    shown.push_back(plain(name));
  }
  return Error{Code::not_found, fmt::format("{}: {}; it has {}", repository, why, fmt::join(shown, ", "))};
}

Result<std::vector<Listed>> choose_named(const std::string& repository, const std::vector<Listed>& files,
                                         const std::string& wanted) {
  TRY(check_kind(wanted));
  if (std::ranges::find(files, wanted, &Listed::name) != files.end()) return with_parts(files, wanted);
  std::vector<std::string> fitting;
  for (const std::string& name : gguf_models(files))
    if (names_quantization(name, wanted)) fitting.push_back(name);
  if (fitting.size() == 1) return with_parts(files, fitting[0]);
  if (fitting.size() > 1)
    return choose_one(repository, fmt::format("'{}' stands for more than one file", plain(wanted)), fitting);
  std::vector<std::string> weights = gguf_models(files);
  for (const Listed& file : files)
    if (is_safetensors(file.name)) weights.push_back(file.name);
  if (weights.empty()) return Error{Code::not_found, fmt::format("{}: has no file '{}'", repository, plain(wanted))};
  return choose_one(repository, fmt::format("there is no file '{}'", plain(wanted)), weights);
}

// A repository's safetensors with all that is read beside them.
std::vector<Listed> choose_folder(const std::vector<Listed>& files) {
  const bool has_top = std::ranges::any_of(files, [](const Listed& f) {
    return is_safetensors(f.name) && in_top_folder(f.name) && !f.name.starts_with("consolidated");
  });
  std::vector<Listed> out;
  for (const Listed& file : files) {
    const bool weights =
        is_safetensors(file.name) && (!has_top || (in_top_folder(file.name) && !file.name.starts_with("consolidated")));
    if (weights || (!is_refused(file.name) && belongs_to_weights(file.name))) out.push_back(file);
  }
  return out;
}

}  // namespace

HubSettings hub_settings_from_environment() {
  HubSettings settings;
  set_endpoint(settings.hf_endpoint, {"HF_ENDPOINT"});
  set_endpoint(settings.ms_endpoint, {"MODELSCOPE_ENDPOINT", "MODELSCOPE_DOMAIN"});
  set_endpoint(settings.ollama_endpoint, {"OLLAMA_REGISTRY"});
  set_endpoint(settings.s3_endpoint, {"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"});
  set_from(settings.s3_region, {"AWS_REGION", "AWS_DEFAULT_REGION"});
  settings.hf_token = hf_token();
  settings.ms_token = trimmed(environment({"MODELSCOPE_API_TOKEN"}));
  settings.s3_key_id = trimmed(environment({"AWS_ACCESS_KEY_ID"}));
  settings.s3_secret = trimmed(environment({"AWS_SECRET_ACCESS_KEY"}));
  settings.s3_session = trimmed(environment({"AWS_SESSION_TOKEN"}));
  return settings;
}

net::Headers bearer(const std::string& endpoint, const std::string& token) {
  if (token.empty()) return {};
  const auto url = net::parse_url(endpoint);
  if (!url || (!url->tls && !url->is_this_machine())) return {};
  return {{"authorization", "Bearer " + token}};
}

Result<std::vector<Listed>> choose_files(const std::string& repository, std::vector<Listed> files,
                                         const std::string& file) {
  for (const Listed& each : files) TRY(check_file_name(each.name));
  std::ranges::sort(files, {}, &Listed::name);
  const auto [twice, end] = std::ranges::unique(files, {}, &Listed::name);
  files.erase(twice, end);
  if (!file.empty()) return choose_named(repository, files, file);
  if (std::ranges::any_of(files, [](const Listed& f) { return is_safetensors(f.name); })) return choose_folder(files);
  const std::vector<std::string> models = gguf_models(files);
  if (models.size() == 1) return with_parts(files, models[0]);
  if (!models.empty()) {
    auto usual = choose_named(repository, files, "Q4_K_M");
    if (usual) return usual;
    return choose_one(repository, "say which file, as in " + repository + ":" + plain(models[0]), models);
  }
  const auto pickled = std::ranges::find_if(files, [](const Listed& f) { return is_refused(f.name); });
  if (pickled != files.end())
    return Error{Code::unsupported, fmt::format("{}: its weights come only in files that can run code when they are "
                                                "opened ({}), and such are never fetched",
                                                repository, plain(pickled->name))};
  return Error{Code::not_found, fmt::format("{}: has no weights, neither GGUF nor safetensors", repository)};
}

Result<Listing> list_model(Courier& courier, const HubSettings& settings, const Reference& reference,
                           const Poll& poll) {
  TRY(courier.check_online(reference.text()));
  Listing listing;
  switch (reference.kind) {
    case HubKind::hugging_face:
      listing = TRY(list_hugging_face(courier, settings, reference, poll));
      break;
    case HubKind::model_scope:
      listing = TRY(list_model_scope(courier, settings, reference, poll));
      break;
    case HubKind::ollama:
      listing = TRY(list_ollama(courier, settings, reference, poll));
      break;
    case HubKind::s3:
      listing = TRY(list_s3(courier, settings, reference, poll));
      break;
    case HubKind::web:
      listing = TRY(list_web(reference));
      break;
  }
  CHECK(!listing.files.empty(), "a model has files");
  for (const Wanted& file : listing.files) {
    TRY(check_file_name(file.name));
    TRY(check_kind(file.name));
  }
  return listing;
}

}  // namespace ashlar::store
