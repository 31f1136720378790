// Base64 (RFC 4648, 4), with padding.
#pragma once

#include <span>
#include <string>

namespace ashlar {

void append_base64(std::string& out, std::span<const unsigned char> bytes);

}  // namespace ashlar
