// The router before simulated replicas: overload and the loss of a replica, by seeds.
#include <gtest/gtest.h>

#include <random>

#include "gateway/routing/simulation_for_test.h"

namespace ashlar::gateway {
namespace {

using namespace simulation;

struct Fleet8 {
  World world;
  Book book;
  std::vector<std::shared_ptr<Replica>> replicas;
  std::vector<std::unique_ptr<Client>> clients;
  std::unique_ptr<Router> router;

  void open(int count, RouterOptions options, int places, Shape shape = {},
            Strategy strategy = Strategy::least_outstanding) {
    options.now = [this] { return world.now; };
    options.own_thread = false;
    RouteTable table;
    table.groups = {{.name = "g", .strategy = strategy}};
    for (int i = 0; i < count; ++i) {
      replicas.push_back(std::make_shared<Replica>(world, book, shape));
      table.deployments.push_back(
          {.name = "r" + std::to_string(i), .group = "g", .generator = replicas.back(), .max_concurrent = places});
    }
    router = std::move(*Router::create(std::move(options), std::move(table)));
  }
  ~Fleet8() { clients.clear(); }

  // Poisson arrivals; one in ten is urgent.
  void offer(double per_second, double seconds, unsigned seed) {
    std::mt19937 random{seed};
    std::exponential_distribution<double> gap(per_second);
    for (double t = gap(random); t < seconds; t += gap(random)) {
      const std::string id = std::to_string(clients.size());
      book[id] = {.input = 200 + static_cast<int>(random() % 1600), .output = 20 + static_cast<int>(random() % 160)};
      auto client = std::make_unique<Client>(world);
      client->priority = random() % 10 == 0 ? -1 : 1;
      world.after(t, [this, &client = *client, id] { ask(client, id); });
      clients.push_back(std::move(client));
    }
  }
  void ask(Client& client, const std::string& id) {
    client.asked = world.now;
    engine::Request request{.id = id, .model = "g", .priority = client.priority, .arrived = world.now};
    request.stopping.max_tokens = book[id].output;
    auto ticket =
        router->route(std::move(request), {.prefix_blocks = book[id].blocks, .prompt_tokens = book[id].input}, client);
    if (!ticket)
      client.ended = world.now;
    else if (!client.ended)
      client.ticket = std::move(*ticket);
  }
  // Requests a second that were answered, their first token within `slo`.
  double goodput(double slo, double seconds) const {
    int good = 0;
    for (const auto& client : clients) good += client->good && client->ttft() <= slo ? 1 : 0;
    return good / seconds;
  }
  double urgent_p99() const {
    std::vector<double> times;
    for (const auto& client : clients)
      if (client->priority < 0) times.push_back(client->first_token ? client->ttft() : 1e9);
    return percentile(std::move(times), 0.99);
  }
};

struct Measured {
  double goodput, urgent_p99;
};
Measured measure(double per_second, unsigned seed) {
  RouterOptions options;
  options.shedding.max_wait = 1500ms;
  options.shedding.reserve = 0.25;
  constexpr double kSeconds = 120;
  Fleet8 fleet;
  fleet.open(4, options, 16);
  fleet.offer(per_second, kSeconds, seed);
  fleet.world.run(*fleet.router);
  return {fleet.goodput(2.0, kSeconds), fleet.urgent_p99()};
}

TEST(RouterSimulation, FourTimesOverloadKeepsTheGoodputAndTheUrgentFast) {
  for (const unsigned seed : {1U, 2U, 3U}) {
    // 4 replicas of 10,000 tokens a second and 16 places of some 2 s: about 30 requests a second.
    const double quiet = measure(3, seed).urgent_p99;
    double peak = 0;
    for (const double rate : {20.0, 25.0, 30.0, 35.0}) peak = std::max(peak, measure(rate, seed).goodput);
    const Measured overload = measure(120, seed);
    RecordProperty("seed_" + std::to_string(seed),
                   std::to_string(peak) + " at best, " + std::to_string(overload.goodput) + " at 4x; urgent P99 " +
                       std::to_string(quiet) + " s unloaded, " + std::to_string(overload.urgent_p99) + " s at 4x");
    EXPECT_GE(overload.goodput, 0.95 * peak);
    EXPECT_LE(overload.urgent_p99, 1.5 * quiet);
  }
}

TEST(RouterSimulation, AReplicaThatDiesCostsOnlyWhatItWasSaying) {
  for (const unsigned seed : {1U, 2U, 3U, 4U, 5U}) {
    Fleet8 fleet;
    fleet.open(2, {}, 0);
    fleet.offer(6, 60, seed);
    std::vector<const Client*> speaking;
    const TimePoint killed = fleet.world.now + 20s;
    fleet.world.at(killed, [&] {
      for (const auto& client : fleet.clients)
        if (client->ticket && client->first_token) speaking.push_back(client.get());
      fleet.replicas[0]->kill();
    });
    fleet.world.run(*fleet.router);
    for (const auto& client : fleet.clients) {
      ASSERT_TRUE(client->ended) << "nobody waits for ever";
      const bool spoke = std::ranges::find(speaking, client.get()) != speaking.end();
      EXPECT_TRUE(client->good || spoke) << "asked " << (client->asked - killed).count() / 1e9 << " s after";
    }
    EXPECT_GT(fleet.replicas[1]->computed_tokens, fleet.replicas[0]->computed_tokens);
  }
}

// Conversations that grow by some blocks with each turn, more of them than the caches hold.
double cached_share(bool tells, unsigned seed) {
  constexpr int kBlockTokens = 64;
  RouterOptions options;
  options.fleet.prefix_block_tokens = kBlockTokens;
  Fleet8 fleet;
  fleet.open(4, options, 0, {.cache_blocks = 150, .block_tokens = kBlockTokens, .tells = tells},
             Strategy::prefix_index);
  std::mt19937 random{seed};
  std::exponential_distribution<double> gap(4);
  std::vector<std::vector<std::uint64_t>> talks;
  std::uint64_t blocks = 0;
  for (double t = gap(random); t < 600; t += gap(random)) {
    if (talks.empty() || random() % 4 == 0) talks.emplace_back();
    auto& talk = talks[talks.size() - 1 - random() % std::min<std::size_t>(talks.size(), 60)];
    for (int i = 0; i < 6; ++i) talk.push_back(++blocks);
    const std::string id = std::to_string(fleet.clients.size());
    fleet.book[id] = {.blocks = talk, .input = static_cast<int>(talk.size()) * kBlockTokens + 20, .output = 20};
    auto client = std::make_unique<Client>(fleet.world);
    fleet.world.after(t, [&fleet, &client = *client, id] { fleet.ask(client, id); });
    fleet.clients.push_back(std::move(client));
  }
  fleet.world.run(*fleet.router);
  double computed = 0, cached = 0;
  for (const auto& replica : fleet.replicas) {
    computed += static_cast<double>(replica->computed_tokens);
    cached += static_cast<double>(replica->cached_tokens);
  }
  return cached / (computed + cached);
}

TEST(RouterSimulation, WhoIsToldWhatIsCachedFindsMoreOfItThanWhoRemembersWhatWasSent) {
  for (const unsigned seed : {1U, 2U, 3U}) {
    const double told = cached_share(true, seed), remembered = cached_share(false, seed);
    RecordProperty("seed_" + std::to_string(seed), std::to_string(told) + " told, " + std::to_string(remembered));
    EXPECT_GT(told, remembered);
  }
}

}  // namespace
}  // namespace ashlar::gateway
