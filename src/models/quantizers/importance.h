// Importance matrices: how much each column of a matrix matters, by the mean square of what it is multiplied with.
// Files are those of llama.cpp: GGUF with general.type "imatrix", or the older form without a magic number.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/threads.h"
#include "models/loader.h"
#include "models/quantizers/layer_walk.h"

namespace ashlar::models {

// Mean squares by tensor; plain data.
struct Importance {
  struct Entry {
    std::vector<float> sums;    // of squares, [matrices][columns]
    std::vector<float> counts;  // tokens, [matrices]; several where experts are stacked
  };
  std::map<std::string, Entry, std::less<>> entries;
  std::vector<std::string> texts;  // what they were measured on
  std::int64_t windows = 0;
  int window = 0;  // tokens

  // The mean squares that `tensor` is weighed by, [columns] of row 0's matrix first, one such row for each stacked
  // matrix; empty: unknown.
  std::vector<float> weights_of(const gguf::Tensor& tensor) const;
};

// corrupt: neither form, or with counts that do not add up; not_found, io: the file.
Result<Importance> read_importance(const std::string& path);
// Whether the tensors of the model are as wide as what was measured. invalid: names the first that is not, or that
// none is there.
Status check_importance(const Importance& importance, const LoadedModel& model, std::string_view path);

// A GGUF file's bytes. `texts` go in by name.
std::string importance_file(const Importance& importance);

// Told after each window of each layer: how many windows in all layers are done. An error stops the work.
using ImportanceWatch = std::function<Status(std::int64_t done, std::int64_t total)>;

// Measures a model on whole windows of tokens, one layer in memory at a time. Errors: those of LayerWalk.
Result<Importance> measure_importance(const LoadedModel& model, std::span<const std::int32_t> tokens, int window,
                                      ThreadPool& pool, const ImportanceWatch& watch);

}  // namespace ashlar::models
