#include "net/tls.h"

#include <fmt/format.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <new>
#include <utility>

namespace ashlar::net {

// Lets OpenSSL read from and write to a TlsSession directly, without the copies
// and standing buffers of its own memory BIOs.
struct TlsBytes {
  static int read(BIO* bio, char* out, std::size_t size, std::size_t* done) {
    auto& from = static_cast<TlsSession*>(BIO_get_data(bio))->incoming_;
    BIO_clear_retry_flags(bio);
    if (from.empty()) {
      BIO_set_retry_read(bio);
      return 0;
    }
    *done = std::min(size, from.size());
    std::memcpy(out, from.data(), *done);
    from.remove_prefix(*done);
    return 1;
  }
  static int write(BIO* bio, const char* bytes, std::size_t size, std::size_t* done) {
    static_cast<TlsSession*>(BIO_get_data(bio))->sealed_.append(bytes, size);
    *done = size;
    return 1;
  }
  static long control(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }

  static BIO_METHOD* method() {
    static BIO_METHOD* const made = [] {
      BIO_METHOD* m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "ashlar bytes");
      BIO_meth_set_read_ex(m, read);
      BIO_meth_set_write_ex(m, write);
      BIO_meth_set_ctrl(m, control);
      return m;
    }();
    return made;
  }
};

namespace {

std::string openssl_error() {
  const unsigned long code = ERR_get_error();
  ERR_clear_error();
  char text[256] = "unknown reason";
  if (code != 0) {
    if (const char* why = ERR_reason_error_string(code)) return why;
    ERR_error_string_n(code, text, sizeof text);
  }
  return text;
}

Error bad_file(std::string_view what, const std::string& path) {
  return Error{Code::invalid, fmt::format("{}: cannot use this {}: {}", path, what, openssl_error())};
}

// As ALPN has them (RFC 7301, 3.1).
constexpr unsigned char kBoth[] = "\x02h2\x08http/1.1";

// Chooses h2, then http/1.1, from what the client offers.
int choose_protocol(SSL*, const unsigned char** out, unsigned char* out_size, const unsigned char* offered,
                    unsigned offered_size, void*) {
  unsigned char* chosen = nullptr;
  if (SSL_select_next_proto(&chosen, out_size, kBoth, sizeof kBoth - 1, offered, offered_size) !=
      OPENSSL_NPN_NEGOTIATED)
    return SSL_TLSEXT_ERR_ALERT_FATAL;
  *out = chosen;
  return SSL_TLSEXT_ERR_OK;
}

Status load_files(SSL_CTX* context, const TlsContext::Files& files) {
  if (!files.certificate.empty()) {
    if (SSL_CTX_use_certificate_chain_file(context, files.certificate.c_str()) != 1)
      return bad_file("certificate", files.certificate);
    if (SSL_CTX_use_PrivateKey_file(context, files.key.c_str(), SSL_FILETYPE_PEM) != 1)
      return bad_file("key", files.key);
    if (SSL_CTX_check_private_key(context) != 1)
      return Error{Code::invalid,
                   fmt::format("{}: this key does not belong to the certificate {}", files.key, files.certificate)};
  }
  if (!files.ca.empty() && SSL_CTX_load_verify_file(context, files.ca.c_str()) != 1)
    return bad_file("CA certificate", files.ca);
  return {};
}

void set_common(SSL_CTX* context) {
  SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
  SSL_CTX_set_mode(context,
                   SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_options(context, SSL_OP_IGNORE_UNEXPECTED_EOF | SSL_OP_NO_TICKET);
}

constexpr int kMaxNames = 64;

// "DNS:host"; "": a kind of name that is not used, or one with characters that no such name has.
std::string alternative_name(const GENERAL_NAME& name) {
  std::string out;
  switch (name.type) {
    case GEN_DNS:
      out = "DNS:";
      break;
    case GEN_URI:
      out = "URI:";
      break;
    case GEN_EMAIL:
      out = "email:";
      break;
    default:
      return {};
  }
  const ASN1_IA5STRING* text = name.d.ia5;
  const std::string_view value(reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)),
                               static_cast<std::size_t>(ASN1_STRING_length(text)));
  const bool plain = !value.empty() && std::ranges::all_of(value, [](char c) { return c > ' ' && c < 0x7f; });
  return plain ? out.append(value) : std::string();
}

}  // namespace

void TlsContext::Free::operator()(ssl_ctx_st* context) const { SSL_CTX_free(context); }

Result<std::shared_ptr<const TlsContext>> TlsContext::server(const Files& files, bool required) {
  std::unique_ptr<SSL_CTX, Free> context(SSL_CTX_new(TLS_server_method()));
  if (!context) throw std::bad_alloc();
  set_common(context.get());
  SSL_CTX_set_num_tickets(context.get(), 0);
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
  SSL_CTX_set_alpn_select_cb(context.get(), choose_protocol, nullptr);
  TRY(load_files(context.get(), files));
  if (!files.ca.empty()) {
    SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER | (required ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0), nullptr);
    SSL_CTX_set_client_CA_list(context.get(), SSL_load_client_CA_file(files.ca.c_str()));
  }
  return std::shared_ptr<const TlsContext>(new TlsContext(std::move(context)));
}

Result<std::shared_ptr<const TlsContext>> TlsContext::client(const Files& files, bool verify) {
  std::unique_ptr<SSL_CTX, Free> context(SSL_CTX_new(TLS_client_method()));
  if (!context) throw std::bad_alloc();
  set_common(context.get());
  // Servers elsewhere may be older than ours.
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  static constexpr unsigned char kHttp1[] = "\x08http/1.1";
  SSL_CTX_set_alpn_protos(context.get(), kHttp1, sizeof kHttp1 - 1);
  TRY(load_files(context.get(), files));
  if (files.ca.empty()) SSL_CTX_set_default_verify_paths(context.get());
  SSL_CTX_set_verify(context.get(), verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, nullptr);
  return std::shared_ptr<const TlsContext>(new TlsContext(std::move(context)));
}

std::optional<std::chrono::system_clock::time_point> TlsContext::until() const {
  std::optional<std::chrono::system_clock::time_point> out;
  const auto look = [&](const X509* certificate) {
    std::tm end{};
    if (certificate == nullptr || ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &end) != 1) return;
    const auto ends = std::chrono::system_clock::from_time_t(timegm(&end));
    out = out ? std::min(*out, ends) : ends;
  };
  look(SSL_CTX_get0_certificate(context_.get()));
  STACK_OF(X509)* chain = nullptr;
  SSL_CTX_get0_chain_certs(context_.get(), &chain);
  for (int i = 0; chain != nullptr && i < sk_X509_num(chain); ++i) look(sk_X509_value(chain, i));
  return out;
}

void TlsSession::Free::operator()(ssl_st* session) const { SSL_free(session); }

TlsSession::TlsSession(std::shared_ptr<const TlsContext> context, bool server)
    : context_(std::move(context)), ssl_(SSL_new(context_->raw())) {
  BIO* const bytes = ssl_ ? BIO_new(TlsBytes::method()) : nullptr;
  if (bytes == nullptr) throw std::bad_alloc();
  BIO_set_data(bytes, this);
  BIO_set_init(bytes, 1);
  SSL_set_bio(ssl_.get(), bytes, bytes);
  if (server)
    SSL_set_accept_state(ssl_.get());
  else
    SSL_set_connect_state(ssl_.get());
}

TlsSession::~TlsSession() = default;

std::unique_ptr<TlsSession> TlsSession::accept(std::shared_ptr<const TlsContext> context) {
  return std::unique_ptr<TlsSession>(new TlsSession(std::move(context), true));
}

std::unique_ptr<TlsSession> TlsSession::connect(std::shared_ptr<const TlsContext> context, const std::string& host,
                                                bool http2) {
  auto session = std::unique_ptr<TlsSession>(new TlsSession(std::move(context), false));
  SSL* ssl = session->ssl_.get();
  if (http2) SSL_set_alpn_protos(ssl, kBoth, sizeof kBoth - 1);
  // An address is checked as such, and is never sent as a name (RFC 6066, 3).
  if (X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host.c_str()) != 1) {
    ERR_clear_error();
    SSL_set_tlsext_host_name(ssl, host.c_str());
    SSL_set1_host(ssl, host.c_str());
  }
  session->handshake();
  return session;
}

bool TlsSession::handshake() {
  ERR_clear_error();
  const int result = SSL_do_handshake(ssl_.get());
  if (result == 1) return ready_ = true;
  if (SSL_get_error(ssl_.get(), result) == SSL_ERROR_WANT_READ) return true;
  const long verdict = SSL_get_verify_result(ssl_.get());
  error_ = verdict == X509_V_OK
               ? openssl_error()
               : fmt::format("the peer's certificate is refused: {}", X509_verify_cert_error_string(verdict));
  ERR_clear_error();
  return false;
}

bool TlsSession::receive(std::string_view bytes, std::string& plain) {
  incoming_ = bytes;
  if (!ready_ && !handshake()) return false;
  while (ready_ && !ended_) {
    constexpr std::size_t kRecord = 16 << 10;
    const std::size_t before = plain.size();
    std::size_t got = 0;
    plain.resize(before + kRecord);
    ERR_clear_error();
    const int result = SSL_read_ex(ssl_.get(), plain.data() + before, kRecord, &got);
    plain.resize(before + (result == 1 ? got : 0));
    if (result == 1) continue;
    const int why = SSL_get_error(ssl_.get(), result);
    if (why == SSL_ERROR_WANT_READ) break;
    ended_ = why == SSL_ERROR_ZERO_RETURN;
    if (ended_) break;
    error_ = openssl_error();
    return false;
  }
  return true;
}

std::size_t TlsSession::send(std::string_view plain) {
  if (!ready_ || plain.empty()) return 0;
  std::size_t done = 0;
  ERR_clear_error();
  return SSL_write_ex(ssl_.get(), plain.data(), plain.size(), &done) == 1 ? done : 0;
}

void TlsSession::close() {
  if (ready_) SSL_shutdown(ssl_.get());
  ERR_clear_error();
}

std::shared_ptr<const std::vector<std::string>> TlsSession::peer_names() const {
  const X509* certificate = SSL_get0_peer_certificate(ssl_.get());
  if (certificate == nullptr || SSL_get_verify_result(ssl_.get()) != X509_V_OK) return nullptr;
  auto out = std::make_shared<std::vector<std::string>>();
  const std::unique_ptr<GENERAL_NAMES, void (*)(GENERAL_NAMES*)> names(
      static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)),
      GENERAL_NAMES_free);
  for (int i = 0; names && i < std::min(sk_GENERAL_NAME_num(names.get()), kMaxNames); ++i)
    if (std::string name = alternative_name(*sk_GENERAL_NAME_value(names.get(), i)); !name.empty())
      out->push_back(std::move(name));
  return out;
}

std::string_view TlsSession::protocol() const {
  const unsigned char* name = nullptr;
  unsigned size = 0;
  SSL_get0_alpn_selected(ssl_.get(), &name, &size);
  return {reinterpret_cast<const char*>(name), size};
}

}  // namespace ashlar::net
