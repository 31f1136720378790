// A LiteLLM proxy's config.yaml, told in our own words.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace ashlar::gateway {

struct LitellmImport {
  std::string config;  // ours, YAML
  std::string limits;  // the file of --limits, YAML; "": none is needed
  // What has no place with us, or another meaning, by its line.
  struct Note {
    int line = 0;
    std::string key;  // "router_settings.cooldown_time"
    std::string why;
  };
  std::vector<Note> notes;
};

// `limits_file`: what the configuration calls the file of limits; "": it is left to the notes. The text may be
// anybody's. invalid: no YAML, or no map; too_large: beyond what such files are.
Result<LitellmImport> import_litellm(const std::string& text, const std::string& limits_file);

}  // namespace ashlar::gateway
