// Several generators behind one face: each request goes to the one that serves
// the model it names.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/generator.h"

namespace ashlar::engine {

// Its generators are fixed after create(), their adapters are not; any thread.
class GeneratorSet : public Generator {
 public:
  // invalid: no generator, or two that serve one name.
  static Result<std::unique_ptr<GeneratorSet>> create(std::vector<std::shared_ptr<Generator>> generators);

  // An empty model name means the first generator's, MODEL:ADAPTER that model's. not_found: none serves it.
  std::expected<std::unique_ptr<Ticket>, Refusal> start(Request request, Sink& sink) override;
  std::vector<ModelCard> models() const override;
  Result<Tokenized> tokenize(const std::string& model, const Prompt& prompt, bool parse_special) const override;
  Result<std::string> detokenize(const std::string& model, const std::vector<std::int32_t>& ids) const override;
  Result<std::string> render(const std::string& model, const Chat& chat) const override;
  // Sums; kv_used is the fullest; healthy if all are.
  Load load() const override;
  // invalid: also a name that another of the generators serves.
  void load_adapter(AdapterOrder order, std::function<void(Status)> done) override;
  Status unload_adapter(const std::string& name) override;

 private:
  GeneratorSet() = default;
  Result<Generator*> find(const std::string& model) const;

  std::vector<std::shared_ptr<Generator>> generators_;
  std::map<std::string, Generator*, std::less<>> by_name_;
};

}  // namespace ashlar::engine
