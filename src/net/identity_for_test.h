// Certificates made for tests.
#pragma once

#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <string>

namespace ashlar::net {

// A certificate and its key, in files that live as long as the object.
class Identity {
 public:
  struct Terms {
    const char* names = "DNS:localhost,DNS:hub.test,IP:127.0.0.1";
    long seconds = 3600;  // it holds from an hour ago until so many from now
  };
  // Signed by `issuer`, or by itself.
  explicit Identity(const std::string& name, const Identity* issuer = nullptr) : Identity(name, issuer, Terms()) {}
  Identity(const std::string& name, const Identity* issuer, const Terms& terms)
      : key_(EVP_EC_gen("P-256")), certificate_(X509_new()) {
    X509_set_version(certificate_, 2);
    static long serial = 1;
    ASN1_INTEGER_set(X509_get_serialNumber(certificate_), serial++);
    X509_gmtime_adj(X509_getm_notBefore(certificate_), -3600);
    X509_gmtime_adj(X509_getm_notAfter(certificate_), terms.seconds);
    X509_set_pubkey(certificate_, key_);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate_), "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
    X509_set_issuer_name(certificate_, X509_get_subject_name(issuer ? issuer->certificate_ : certificate_));
    add(NID_subject_alt_name, terms.names);
    add(NID_basic_constraints, issuer ? "CA:FALSE" : "critical,CA:TRUE");
    X509_sign(certificate_, issuer ? issuer->key_ : key_, EVP_sha256());

    folder_ = std::filesystem::temp_directory_path() /
              ("ashlar_tls_" + std::to_string(::getpid()) + "_" + std::to_string(serial));
    std::filesystem::create_directories(folder_);
    FILE* file = std::fopen(certificate().c_str(), "w");
    PEM_write_X509(file, certificate_);
    std::fclose(file);
    file = std::fopen(key().c_str(), "w");
    PEM_write_PrivateKey(file, key_, nullptr, nullptr, 0, nullptr, nullptr);
    std::fclose(file);
  }
  ~Identity() {
    std::filesystem::remove_all(folder_);
    X509_free(certificate_);
    EVP_PKEY_free(key_);
  }
  Identity(const Identity&) = delete;
  Identity& operator=(const Identity&) = delete;

  std::string certificate() const { return folder_ / "cert.pem"; }
  std::string key() const { return folder_ / "key.pem"; }

 private:
  void add(int what, const char* value) {
    X509V3_CTX context;
    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, certificate_, certificate_, nullptr, nullptr, 0);
    X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, what, value);
    X509_add_ext(certificate_, extension, -1);
    X509_EXTENSION_free(extension);
  }

  EVP_PKEY* key_;
  X509* certificate_;
  std::filesystem::path folder_;
};

}  // namespace ashlar::net
