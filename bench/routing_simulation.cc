// How much sooner the first token comes when prompts go where their beginning is cached: the router before simulated
// replicas, over a trace of block ids (Mooncake's: {"timestamp", "input_length", "output_length", "hash_ids"} a line).
//
//   routing_simulation TRACE [--replicas 8] [--cache-blocks 2048] [--prefill 9000 ...] [--forget 60]
//
// For each prefill speed (tokens a second of one replica) and each strategy it prints the time to the first token, the
// share of prompt tokens found in the caches, and the greatest load over the mean; once for the trace and once with its
// blocks made all different, where there is nothing to be gained. With --forget, one replica after the other loses its
// cache, one each so many seconds: what a restart does, or a model that left memory.
#include <fmt/format.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "base/json_full.h"
#include "base/log.h"
#include "gateway/routing/simulation_for_test.h"

namespace {

using namespace ashlar;
using namespace ashlar::gateway;
using namespace ashlar::gateway::simulation;

struct Row {
  double seconds;
  Facts facts;
};

std::vector<Row> read_trace(const char* path) {
  std::ifstream in(path);
  std::vector<Row> rows;
  for (std::string line; std::getline(in, line);) {
    const auto json = parse_json(line);
    if (!json) break;
    Row row{.seconds = json->value("timestamp", 0.0) / 1000};
    row.facts.input = json->value("input_length", 1);
    row.facts.output = std::max(1, json->value("output_length", 1));
    for (const Json& block : (*json)["hash_ids"]) row.facts.blocks.push_back(block.get<std::uint64_t>());
    rows.push_back(std::move(row));
  }
  return rows;
}

struct Setting {
  const char* name;
  Strategy strategy;
  bool tells;   // the replicas tell what they have cached; else it is remembered what was sent, as if they had room for
  int rooms;    // so many times what they have
  bool random;  // weighted, over a shuffled order of arrival: a key drawn at random on the ring without a bound
};

struct Outcome {
  double mean = 0, p50 = 0, p99 = 0, hit = 0, skew = 0;
};

Outcome simulate(const std::vector<Row>& rows, int replicas, Shape shape, double forget, const Setting& setting) {
  const bool random = setting.random;
  shape.tells = setting.tells;
  World world;
  Book book;
  RouterOptions options;
  options.now = [&] { return world.now; };
  options.own_thread = false;
  options.fleet.prefix_index_blocks = shape.cache_blocks * static_cast<std::size_t>(setting.rooms);
  options.fleet.prefix_block_tokens = shape.block_tokens;
  if (random) options.fleet.ring_bound = 1e9;
  RouteTable table;
  table.groups = {{.name = "g", .strategy = setting.strategy}};
  std::vector<std::shared_ptr<Replica>> fleet;
  for (int i = 0; i < replicas; ++i) {
    fleet.push_back(std::make_shared<Replica>(world, book, shape));
    table.deployments.push_back({.name = "r" + std::to_string(i), .group = "g", .generator = fleet.back()});
    table.deployments.back().breaker.slow = 0s;  // random routing is slow enough to open them
  }
  std::size_t next = 0;
  for (double t = forget; forget > 0 && t < rows.back().seconds; t += forget)
    world.after(t, [&fleet, which = next++ % fleet.size()] { fleet[which]->forget(); });
  std::vector<std::unique_ptr<Client>> clients;
  auto router = std::move(*Router::create(std::move(options), std::move(table)));
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::string id = std::to_string(i);
    book[id] = rows[i].facts;
    auto client = std::make_unique<Client>(world);
    world.after(rows[i].seconds, [&world, &router, &rows, &client = *client, i, id, random] {
      const Facts& facts = rows[i].facts;
      client.asked = world.now;
      engine::Request request{.id = id, .model = "g", .arrived = world.now};
      // The first block of this trace is the same for all; the user's first words stand in the second.
      const std::uint64_t words = facts.blocks[std::min<std::size_t>(1, facts.blocks.size() - 1)];
      request.prompt.input = std::to_string(random ? i * 0x9e3779b97f4a7c15U : words);
      request.stopping.max_tokens = facts.output;
      auto ticket =
          router->route(std::move(request), {.prefix_blocks = facts.blocks, .prompt_tokens = facts.input}, client);
      if (ticket && !client.ended) client.ticket = std::move(*ticket);
    });
    clients.push_back(std::move(client));
  }
  world.run(*router);
  std::vector<double> times;
  for (const auto& client : clients)
    if (client->first_token) times.push_back(client->ttft());
  if (times.size() != rows.size()) fmt::print("only {} of {} were answered\n", times.size(), rows.size());
  Outcome out;
  for (const double each : times) out.mean += each / static_cast<double>(times.size());
  out.p50 = percentile(times, 0.5);
  out.p99 = percentile(times, 0.99);
  double computed = 0, cached = 0, most = 0;
  for (const auto& replica : fleet) {
    computed += static_cast<double>(replica->computed_tokens);
    cached += static_cast<double>(replica->cached_tokens);
    most = std::max(most, static_cast<double>(replica->computed_tokens));
  }
  out.hit = cached / (computed + cached);
  out.skew = most * replicas / computed;
  clients.clear();
  return out;
}

void compare(const std::vector<Row>& rows, int replicas, const Shape& shape, double forget, const char* title) {
  const double load = [&] {
    double tokens = 0;
    for (const Row& row : rows) tokens += row.facts.input;
    return tokens / rows.back().seconds / (replicas * shape.prefill_tokens_per_second);
  }();
  fmt::print(
      "\n{}: {} requests, {} replicas of {:.0f} prefill tokens/s, {} cached blocks of {} each; load without cache "
      "{:.2f}\n",
      title, rows.size(), replicas, shape.prefill_tokens_per_second, shape.cache_blocks, shape.block_tokens, load);
  fmt::print("{:<20}{:>12}{:>12}{:>12}{:>10}{:>10}{:>12}\n", "strategy", "mean TTFT", "P50", "P99", "cached",
             "max/mean", "against");
  const Setting settings[] = {{"random", Strategy::prefix_ring, false, 1, true},
                              {"least outstanding", Strategy::least_outstanding, false, 1, false},
                              {"prefix ring", Strategy::prefix_ring, false, 1, false},
                              {"remembered, 16x", Strategy::prefix_index, false, 16, false},
                              {"remembered", Strategy::prefix_index, false, 1, false},
                              {"told", Strategy::prefix_index, true, 1, false}};
  double random = 0;
  for (const Setting& setting : settings) {
    const Outcome out = simulate(rows, replicas, shape, forget, setting);
    if (setting.random) random = out.mean;
    fmt::print("{:<20}{:>10.3f} s{:>10.3f} s{:>10.3f} s{:>9.1f}%{:>10.2f}{:>+11.1f}%\n", setting.name, out.mean,
               out.p50, out.p99, out.hit * 100, out.skew, (out.mean / random - 1) * 100);
  }
}

}  // namespace

int main(int argc, char** argv) {
  log::configure(log::Level::off, log::Format::text);
  if (argc < 2) {
    fmt::print(stderr, "routing_simulation TRACE [--replicas N] [--cache-blocks N] [--prefill TOKENS_PER_SECOND]... [--forget SECONDS]\n");
    return 2;
  }
  int replicas = 8;
  double forget = 0;
  Shape shape{.decode_step_seconds = 0.02, .cache_blocks = 2048};
  std::vector<double> speeds;
  for (int i = 2; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--replicas") == 0) replicas = std::max(1, std::atoi(argv[i + 1]));
    if (std::strcmp(argv[i], "--cache-blocks") == 0)
      shape.cache_blocks = static_cast<std::size_t>(std::max(1, std::atoi(argv[i + 1])));
    if (std::strcmp(argv[i], "--forget") == 0) forget = std::atof(argv[i + 1]);
    if (std::strcmp(argv[i], "--prefill") == 0) speeds.push_back(std::max(1.0, std::atof(argv[i + 1])));
  }
  if (speeds.empty()) speeds = {4500, 6000, 9000, 20000};
  auto rows = read_trace(argv[1]);
  if (rows.empty()) {
    fmt::print(stderr, "{}: no trace\n", argv[1]);
    return 1;
  }
  for (const double speed : speeds) {
    shape.prefill_tokens_per_second = speed;
    compare(rows, replicas, shape, forget, "the trace");
  }
  std::uint64_t block = 1U << 30;
  for (Row& row : rows)
    for (auto& each : row.facts.blocks) each = ++block;
  for (const double speed : {9000.0, 20000.0}) {
    shape.prefill_tokens_per_second = speed;
    compare(rows, replicas, shape, forget, "nothing shared");
  }
  return 0;
}
