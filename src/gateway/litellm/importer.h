// What was read of a LiteLLM proxy's configuration, on its way to ours.
#pragma once

#include <yaml-cpp/yaml.h>

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "gateway/litellm/import_litellm.h"
#include "gateway/litellm/reader.h"

namespace ashlar::gateway {

struct LitellmDeployment {
  std::string upstream, model;
  double weight = 0;  // 0: unsaid
  int order = 0;
  int most = 0;                         // at once
  std::optional<double> input, output;  // dollars for a million tokens
  double rpm = 0, tpm = 0;
};

struct LitellmGroup {
  std::string name;
  bool embeds = false;  // no route, which is for text, but a name of its one upstream's model
  std::vector<LitellmDeployment> deployments;
  std::vector<std::string> aliases;
  std::map<std::string, std::vector<std::string>> fallbacks;  // by cause
};

struct LitellmUpstream {
  std::string name, base;                      // the name before a number made it another's
  std::map<std::string, std::string> members;  // as they are written
  std::vector<std::string> models;
  bool lists = false;  // all that it lists, whatever that is
};

struct Litellm {
  std::map<std::string, std::string> options;  // of ours, as they are written
  std::string strategy = "weighted";
  int seats = 0;
  std::vector<std::string> default_fallbacks;
  std::vector<LitellmUpstream> upstreams;
  std::vector<LitellmGroup> groups;

  std::string config(const std::string& limits_file) const;
  // "": none are needed. What cannot be said is noted.
  std::string limits(LitellmReader& notes) const;
};

class LitellmImporter {
 public:
  LitellmImport run(const YAML::Node& root, const std::string& limits_file);

 private:
  using Members = LitellmReader::Members;
  using Texts = LitellmReader::Texts;
  using Deployment = LitellmDeployment;
  using Group = LitellmGroup;
  using Upstream = LitellmUpstream;
  static constexpr std::size_t kMostModels = LitellmReader::kMostModels;

  void note(const YAML::Node& at, std::string key, std::string why) { read_.note(at, std::move(key), std::move(why)); }
  void settings();
  void redis(const YAML::Node& node);
  void setting(const std::string& path, const std::string& key, const YAML::Node& value);
  void general(const std::string& path, const std::string& key, const YAML::Node& value);
  void environment(const YAML::Node& node);
  void strategy(const std::string& path, const YAML::Node& value);
  int attempts_of(const YAML::Node& at, const std::string& path, double retries);
  void models();
  void model(const YAML::Node& node);
  void param(const std::string& key, const YAML::Node& value, Texts& given, Deployment& out, Upstream& up);
  void model_info(const std::string& key, const YAML::Node& value, Deployment& out, std::string& mode);
  void credential(Members& params);
  void credentials(const YAML::Node& list);
  void price(const YAML::Node& value, const std::string& path, std::optional<double>& out);
  // Where the model is, and what it is called there.
  bool place(const YAML::Node& node, const std::string& said, const Texts& given, Upstream& up, std::string& theirs);
  // Secrets are referred to, never written.
  void secret(const YAML::Node& node, const std::string& key, const std::string& value, const std::string& ours,
              Upstream& up);
  // The name of the upstream that is like `wanted`, which serves `model` too.
  std::string upstream(Upstream wanted, const std::string& model);
  std::string numbered(const std::string& base) const;  // a name that is free
  void give_way(const std::string& base);
  void cache_params(const std::string& path, const YAML::Node& value);
  Group* group(const std::string& name);
  // [{name: [others]}], or {name: [others]}.
  void fallbacks(const std::string& cause, const YAML::Node& node);
  void fallback(const std::string& cause, const std::string& name, const YAML::Node& list);
  void aliases(const YAML::Node& node);

  LitellmReader read_;
  Litellm made_;
  YAML::Node models_{YAML::NodeType::Undefined}, router_{YAML::NodeType::Undefined}, module_{YAML::NodeType::Undefined},
      general_{YAML::NodeType::Undefined};
  double timeout_ = 0, first_token_ = 0;
  int attempts_ = 0, redis_port_ = 6379, secrets_ = 0;
  bool redis_password_ = false;
  std::optional<YAML::Node> redis_host_;
  std::map<std::string, std::vector<YAML::Node>> fallbacks_;
  std::vector<YAML::Node> aliases_;
  std::set<std::string> aliases_seen_;
  std::map<std::string, Members> credentials_;
};

}  // namespace ashlar::gateway
