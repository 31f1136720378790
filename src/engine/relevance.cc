#include "engine/relevance.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace ashlar::engine {

void normalize(std::span<float> vector) {
  double squares = 0;
  for (const float value : vector) squares += static_cast<double>(value) * static_cast<double>(value);
  if (squares == 0) return;
  const double over = 1 / std::sqrt(squares);
  for (float& value : vector) value = static_cast<float>(static_cast<double>(value) * over);
}

float relevance(std::span<const float> scores, int relevant) {
  if (scores.size() == 1) return static_cast<float>(1 / (1 + std::exp(-static_cast<double>(scores[0]))));
  const double most = static_cast<double>(*std::ranges::max_element(scores));
  double sum = 0;
  for (const float score : scores) sum += std::exp(static_cast<double>(score) - most);
  return static_cast<float>(std::exp(static_cast<double>(scores[static_cast<std::size_t>(relevant)]) - most) / sum);
}

Result<int> relevant_score(int outputs, const std::vector<std::string>& labels) {
  for (const std::string_view yes : {"yes", "Yes", "relevant", "RELEVANT"}) {
    const auto found = std::ranges::find(labels, yes);
    if (found != labels.end() && found - labels.begin() < outputs) return static_cast<int>(found - labels.begin());
  }
  if (outputs > 2)
    return Error{
        Code::unsupported,
        fmt::format("the model's classifier has {} scores, and no label says which of them is relevance", outputs)};
  return outputs - 1;
}

}  // namespace ashlar::engine
