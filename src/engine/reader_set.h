// Several readers of texts behind one face: each request goes to the one that serves the model it names.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/text_reader.h"

namespace ashlar::engine {

// Fixed once made; any thread.
class ReaderSet final : public Embedder, public Reranker {
 public:
  explicit ReaderSet(std::vector<std::unique_ptr<TextReader>> readers);

  // An empty name means the first reader that does what is asked.
  void embed(EmbedRequest request, Embedder::Done done) override;
  void rerank(RerankRequest request, Reranker::Done done) override;

 private:
  TextReader* find(const std::string& model, bool ranks) const;

  std::vector<std::unique_ptr<TextReader>> readers_;
  std::map<std::string, TextReader*, std::less<>> by_name_;
};

}  // namespace ashlar::engine
