// A smaller version of a model: each matrix rounded to a type of fewer bits, each block by itself ("round to
// nearest", RTN), with regard to which columns matter where that was measured; or as another method made it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/threads.h"
#include "models/formats/new_file.h"
#include "models/loader.h"
#include "models/mix.h"
#include "models/quantizers/importance.h"

namespace ashlar::models {

// What becomes of one tensor.
struct TensorChange {
  const gguf::Tensor* tensor = nullptr;  // of the model's file
  kernels::Type type = kernels::Type::f32;
  // What the mix has for it, where rows are not whole blocks of that and `type`
  // is what takes its place.
  std::optional<kernels::Type> wanted;
  // Where a method has made its new bytes: a tensor of another file. Borrowed.
  const gguf::Tensor* made = nullptr;
  const gguf::File* made_in = nullptr;
  std::uint64_t bytes() const;  // afterwards
};

struct QuantizePlan {
  const Mix* mix = nullptr;
  const Importance* importance = nullptr;
  std::vector<TensorChange> tensors;  // in the file's order
  std::uint64_t bytes() const;        // of all tensors afterwards
};

struct QuantizeLimits {
  bool requantize = false;                      // what is quantized already may be rounded once more
  std::int64_t rtn_parameters = 6'700'000'000;  // larger models are refused
  const Importance* importance = nullptr;       // of columns, where it was measured: it must outlive the plan
};

// Which tensor gets which type. Matrices get what the mix chooses; vectors,
// norms, and what chooses experts become F32. `model`: of open_model(); it must
// outlive the plan. unsupported: the model has no weights; invalid: it is quantized already
// and `requantize` is false; too_large: more than `rtn_parameters`.
Result<QuantizePlan> plan_quantize(const LoadedModel& model, const Mix& mix, const QuantizeLimits& limits);

// Told now and then on the caller's thread: elements done of the whole plan, and
// the tensor at work. An error stops the work and is returned.
using QuantizeWatch = std::function<Status(std::int64_t done, std::string_view tensor)>;

// Writes the model as planned, with all keys of its file but those that say how
// it was stored; does not commit. Holds one tensor's new bytes at a time.
// corrupt: a tensor holds a value that is not finite; invalid: one that the type
// cannot hold; io: as NewFile::write().
Status quantize(const LoadedModel& model, const QuantizePlan& plan, ThreadPool& pool, const QuantizeWatch& watch,
                NewFile& out);

}  // namespace ashlar::models
