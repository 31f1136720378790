// One generation on its way to a client: the tickets, the choices so far, and
// the HTTP exchange they are written to.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "api/dialect.h"
#include "api/errors.h"
#include "api/generation.h"
#include "engine/generator.h"
#include "net/http.h"

namespace ashlar::api {

class Keeper;

// Made on a network thread, fed on the generator's thread, owned by the Keeper,
// which sees to it that none dies within its own call: a ticket's death waits for
// a call in progress. A small lock guards what the threads share.
class Answer {
 public:
  Answer(std::shared_ptr<net::Exchange> exchange, std::unique_ptr<Dialect> dialect, Reply reply, Keeper& keeper);
  ~Answer();
  Answer(const Answer&) = delete;
  Answer& operator=(const Answer&) = delete;

  // Starts every request; the choices of the i-th get the indexes i*n to i*n+n-1.
  // A failure is told to the client. Call once, before the keeper has it.
  void start(engine::Generator& generator, std::vector<engine::Request> requests);

  // A comment to the client of a stream that was silent since `quiet_since`, so
  // that nobody in between takes the connection for dead.
  void ping(engine::Clock::time_point quiet_since);

  std::uint64_t number() const { return number_; }  // unique in this process
  bool over() const { return over_; }
  net::Exchange& exchange() const { return *exchange_; }

 private:
  struct Part;  // one request: the Sink that knows its first choice

  void on(Part& part, engine::Event event);
  void count(Part& part, int more, int all);
  void render(Part& part, engine::Event& event, std::string& out);
  net::Headers with_notes(net::Headers headers);  // once
  net::Marks marks() const;                       // behind what ends the answer
  void open();                                    // the stream's header, if not yet sent
  void fail(const Fault&);                        // as a status while that is possible, else within the stream
  void finish();

  const std::shared_ptr<net::Exchange> exchange_;
  const std::unique_ptr<Dialect> dialect_;
  const Reply reply_;
  Keeper& keeper_;
  const std::uint64_t number_;
  // For the client's headers: written while the first request starts, and by whoever routes it before the first event.
  const std::shared_ptr<engine::Notes> notes_ = std::make_shared<engine::Notes>();

  engine::Clock::time_point arrived_;  // the first request

  std::mutex mutex_;
  bool opened_ = false;                             // guarded by mutex_, as are the next seven
  bool explained_ = false;                          // the notes will tell its way
  std::optional<engine::Clock::time_point> asked_;  // whoever computes the first request
  engine::Clock::time_point told_;                  // the event that is looked at
  std::vector<Choice> choices_;
  engine::Usage usage_;  // counted as it comes, for usage within a stream
  engine::Usage total_;  // as the generator counted at the end
  std::size_t parts_left_ = 0;
  std::atomic<bool> over_ = false;
  std::atomic<engine::Clock::time_point> last_write_;

  std::vector<std::unique_ptr<Part>> parts_;
  std::vector<std::unique_ptr<engine::Ticket>> tickets_;  // last: dies first, while the parts can still be called
};

}  // namespace ashlar::api
