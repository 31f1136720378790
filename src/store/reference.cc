#include "store/reference.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "net/http_text.h"
#include "net/url.h"
#include "store/names.h"
#include "store/wire.h"

namespace ashlar::store {
namespace {

Error wrong(std::string_view text, std::string_view why) {
  return Error{Code::invalid,
               fmt::format("'{}' names no model to pull: {}; it may be hf:ORG/REPO[:FILE], ms:ORG/REPO[:FILE], "
                           "ollama:NAME[:TAG], s3://BUCKET/KEY or https://HOST/FILE",
                           plain(without_query(text)), why)};
}

bool is_word(std::string_view text) {
  return !text.empty() && text.size() <= 200 && text.front() != '.' && text.front() != '-' &&
         std::ranges::all_of(text, [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
                  c == '.';
         });
}

// ORG/REPO[@REVISION][:FILE]
Result<Reference> parse_repository(HubKind kind, std::string_view whole, std::string_view text) {
  Reference out{.kind = kind};
  if (const std::size_t colon = text.find(':'); colon != text.npos) {
    out.file = text.substr(colon + 1);
    text = text.substr(0, colon);
    if (out.file.empty()) return wrong(whole, "after the ':' comes a file's name");
    if (!check_file_name(out.file)) return wrong(whole, "the file's name is refused");
  }
  if (const std::size_t at = text.find('@'); at != text.npos) {
    out.revision = text.substr(at + 1);
    text = text.substr(0, at);
    if (!check_file_name(out.revision)) return wrong(whole, "after the '@' comes a branch, a tag or a commit");
  }
  if (out.revision.empty()) out.revision = kind == HubKind::hugging_face ? "main" : "master";
  const std::size_t slash = text.find('/');
  const bool two = slash != text.npos && is_word(text.substr(0, slash)) && is_word(text.substr(slash + 1));
  // Hugging Face has some old models without an owner: hf:gpt2.
  if (!two && !(kind == HubKind::hugging_face && is_word(text))) return wrong(whole, "a repository is ORG/REPO");
  out.repository = text;
  return out;
}

// [[HOST/]USER/]NAME[:TAG]
Result<Reference> parse_ollama(std::string_view whole, std::string_view text) {
  Reference out{.kind = HubKind::ollama, .revision = "latest"};
  std::string scheme = "https";
  bool named = false;
  for (const std::string_view each : {"https", "http"})
    if (text.starts_with(fmt::format("{}://", each))) {
      scheme = each;
      named = true;
      text.remove_prefix(each.size() + 3);
      break;
    }
  const std::size_t first = text.find('/');
  if (named && first == text.npos) return wrong(whole, "after the host comes a model");
  if (first != text.npos && (named || text.substr(0, first).find_first_of(".:") != text.npos)) {
    out.host = fmt::format("{}://{}", scheme, text.substr(0, first));
    if (!net::parse_url(out.host)) return wrong(whole, "its host cannot be used");
    text.remove_prefix(first + 1);
  }
  if (const std::size_t colon = text.rfind(':'); colon != text.npos) {
    out.revision = text.substr(colon + 1);
    text = text.substr(0, colon);
    if (!is_word(out.revision)) return wrong(whole, "after the ':' comes a tag");
  }
  const std::size_t slash = text.find('/');
  if (slash == text.npos ? !is_word(text) : !is_word(text.substr(0, slash)) || !is_word(text.substr(slash + 1)))
    return wrong(whole, "a model is NAME or USER/NAME");
  out.repository = slash == text.npos ? fmt::format("library/{}", text) : std::string(text);
  return out;
}

Result<Reference> parse_s3(std::string_view whole, std::string_view text) {
  Reference out{.kind = HubKind::s3};
  const std::size_t slash = text.find('/');
  out.repository = text.substr(0, slash);
  if (!is_word(out.repository)) return wrong(whole, "a bucket's name comes after s3://");
  if (slash != text.npos) out.file = text.substr(slash + 1);
  const std::string_view key =
      std::string_view(out.file).substr(0, out.file.size() - (out.file.ends_with('/') ? 1 : 0));
  if (key.empty() || !check_file_name(key)) return wrong(whole, "after the bucket comes a key, or a folder of keys");
  return out;
}

Result<Reference> parse_web(std::string_view whole) {
  Reference out{.kind = HubKind::web, .url = std::string(whole.substr(0, whole.find('#')))};
  if (!origin_of(out.url)) return wrong(whole, "it is no address that can be asked");
  const std::string_view path = without_query(out.url);
  const auto name = net::percent_decode(path.substr(path.rfind('/') + 1));
  if (path.find('/', path.find("://") + 3) == path.npos || !name || !check_file_name(*name))
    return wrong(whole, "its path does not end with a file's name");
  out.file = *name;
  return out;
}

}  // namespace

std::string_view prefix_of(HubKind kind) {
  switch (kind) {
    case HubKind::hugging_face:
      return "hf";
    case HubKind::model_scope:
      return "ms";
    case HubKind::ollama:
      return "ollama";
    case HubKind::s3:
      return "s3";
    case HubKind::web:
      return "https";
  }
  return "";
}

std::string Reference::text() const {
  switch (kind) {
    case HubKind::hugging_face:
    case HubKind::model_scope: {
      const bool usual = revision == (kind == HubKind::hugging_face ? "main" : "master");
      return fmt::format("{}:{}{}{}{}{}", prefix_of(kind), repository, usual ? "" : "@", usual ? "" : revision,
                         file.empty() ? "" : ":", file);
    }
    case HubKind::ollama: {
      const bool plain_host = host.starts_with("https://") && host.find_first_of(".:", 8) != host.npos;
      const std::string where = plain_host ? host.substr(8) : host;
      const bool official = host.empty() && repository.starts_with("library/");
      return fmt::format("ollama:{}{}{}:{}", where, where.empty() ? "" : "/",
                         official ? repository.substr(8) : repository, revision);
    }
    case HubKind::s3:
      return fmt::format("s3://{}/{}", repository, file);
    case HubKind::web:
      return std::string(without_query(url));
  }
  return "";
}

std::string Reference::short_name() const {
  std::string_view name = kind == HubKind::s3 || kind == HubKind::web ? file : repository;
  if (name.ends_with('/')) name.remove_suffix(1);
  name = name.substr(name.rfind('/') + 1);
  if (kind == HubKind::ollama) return revision == "latest" ? std::string(name) : fmt::format("{}:{}", name, revision);
  if (net::lower(name).ends_with(".gguf")) name.remove_suffix(5);
  return std::string(name);
}

Result<Reference> parse_reference(std::string_view text) {
  if (text.size() > 4096) return wrong(text.substr(0, 200), "it is too long");
  const auto rest = [&](std::string_view prefix) -> std::optional<std::string_view> {
    if (!text.starts_with(prefix)) return std::nullopt;
    return text.substr(prefix.size());
  };
  if (const auto after = rest("s3://")) return parse_s3(text, *after);
  if (rest("https://") || rest("http://")) return parse_web(text);
  if (const auto after = rest("hf:")) return parse_repository(HubKind::hugging_face, text, *after);
  if (const auto after = rest("ms:")) return parse_repository(HubKind::model_scope, text, *after);
  if (const auto after = rest("ollama:")) return parse_ollama(text, *after);
  return wrong(text, "it does not say where from");
}

bool looks_like_reference(std::string_view text) {
  constexpr std::string_view kBeginnings[] = {"hf:", "ms:", "ollama:", "s3://", "https://", "http://"};
  return std::ranges::any_of(kBeginnings, [&](std::string_view each) { return text.starts_with(each); });
}

}  // namespace ashlar::store
