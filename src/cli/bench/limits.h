// What this machine could do at most, and so how fast a test could be at most.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "base/threads.h"
#include "cli/bench/test.h"
#include "models/model.h"

namespace ashlar::cli {

// Arithmetic of one kind, on all threads, in registers.
struct Peak {
  std::string name;   // "int8"
  double per_second;  // multiplications and additions
};

struct Limits {
  double bytes_per_second = 0;  // read from memory on 2 MiB pages
  Peak products;                // of the kind that this model's products use
  Peak attention;               // of the kind that attention uses
  double foreign = 0;           // others' share of the cores meanwhile
};

// The least disturbed of some tries. exhausted: no memory to measure with. Takes part of a second.
Result<Limits> measure_limits(const models::Model& model, ThreadPool& pool);

// The least time that something can take: its bytes at the memory's bandwidth,
// its operations at their peaks; the longer of both, since they overlap.
struct Floor {
  double memory_seconds = 0;
  double arithmetic_seconds = 0;
  double seconds() const { return memory_seconds > arithmetic_seconds ? memory_seconds : arithmetic_seconds; }
  bool memory_bound() const { return memory_seconds > arithmetic_seconds; }
};

// Prefill reads the weights once a pass of at most `chunk` rows; rows whose
// logits nobody asks for are not in the last layer's later products.
Floor prefill_floor(const models::Model& model, const Limits& limits, const Test& test, models::KvType kv, int chunk);
// Each step of decode reads the weights once, and the keys and values of each
// sequence; those of a shared prefix once for all.
Floor decode_floor(const models::Model& model, const Limits& limits, const Test& test, models::KvType kv);

}  // namespace ashlar::cli
