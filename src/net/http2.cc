#include "net/protocol.h"

namespace ashlar::net {

// Answers the preface with 505 over HTTP/1.1 until HTTP/2 is here.
std::unique_ptr<Protocol> make_http2(ProtocolHome& home) { return make_http1(home); }

}  // namespace ashlar::net
