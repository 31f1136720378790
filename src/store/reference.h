// What a user types to name a model that can be pulled.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace ashlar::store {

enum class HubKind { hugging_face, model_scope, ollama, s3, web };
// "hf", "ms", "ollama", "s3", "https"
std::string_view prefix_of(HubKind kind);

//   hf:ORG/REPO[@REVISION][:FILE]       FILE: a file's name, or a quantization such as Q4_K_M
//   ms:ORG/REPO[@REVISION][:FILE]
//   ollama:[[HOST/]USER/]NAME[:TAG]     HOST has a dot or a port; http://HOST/... without TLS
//   s3://BUCKET/KEY                     one file, or a folder
//   https://HOST/PATH                   one file
struct Reference {
  HubKind kind = HubKind::web;
  std::string host;        // ollama: "https://host" of another registry; else ""
  std::string repository;  // "ORG/REPO", "USER/NAME", a bucket; web: ""
  std::string revision;    // "main", "master" or a tag if none was named; s3, web: ""
  std::string file;        // as typed; s3: the key; else "" for none
  std::string url;         // web: the address with its query, which may be secret

  // As it would be typed, without what may be left out and without an address's query.
  std::string text() const;
  // The last part of its name: what a person would call the model.
  std::string short_name() const;
};

// invalid: none of these, in a sentence that says what is.
Result<Reference> parse_reference(std::string_view text);
// Whether `text` begins as one of them does.
bool looks_like_reference(std::string_view text);

}  // namespace ashlar::store
