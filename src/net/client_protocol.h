// What the client's connections speak, without their sockets: tasks in, bytes out; bytes in, tasks answered. A link
// drives it on its thread.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "net/client_task.h"
#include "net/outbox.h"
#include "net/protocol.h"

namespace ashlar::net {

// Where a protocol lives: a link. It outlives the protocol.
class ClientHome {
 public:
  virtual ~ClientHome() = default;
  virtual const ClientOptions& options() const = 0;
  virtual const std::string& name() const = 0;  // "https://host:port", for sentences
  virtual Outbox& out() = 0;
  virtual bool all_sent() const = 0;
  // Ends the connection, and so calls the protocol's end() with `why`.
  virtual void close(Error why) = 0;
  // The protocol has room for tasks (again), and may be given some at once. False: the connection is not wanted.
  virtual bool offer() = 0;
  // Asks once more, on another connection, for a task that is no more the protocol's.
  virtual void ask_again(std::shared_ptr<ClientTask> task) = 0;
  // The same in HTTP/1.1, as the server wants it; so is whatever it is asked in the next minutes.
  virtual void ask_in_http1(std::shared_ptr<ClientTask> task) = 0;
};

class ClientProtocol {
 public:
  virtual ~ClientProtocol() = default;
  // How many more tasks it can serve now; below 0: none ever.
  virtual int room() const = 0;
  // Asks for it. Only where there is room.
  virtual void serve(std::shared_ptr<ClientTask> task) = 0;
  // Puts what there is to be sent into out, until it holds `target` bytes.
  virtual void fill(std::size_t target) = 0;
  // The task was dropped: nothing more is done for it.
  virtual void cancel(const ClientTask& task) = 0;
  // Bytes as they come; none when a TLS handshake's last bytes came.
  virtual void receive(std::string_view bytes) = 0;
  virtual void receive_end() = 0;
  virtual TimePoint deadline() const = 0;
  virtual void expire(TimePoint now) = 0;
  // The connection is gone: ends the tasks that it served.
  virtual void end(const Error& why) = 0;
};

std::unique_ptr<ClientProtocol> make_client_http1(ClientHome& home);
std::unique_ptr<ClientProtocol> make_client_http2(ClientHome& home);

}  // namespace ashlar::net
