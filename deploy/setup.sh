# Sourced by ./run and ./test: makes sure that a Debian 12 machine has what they
# need, installing only what is missing.

BUILD_PACKAGES="clang-19 lld-19 cmake ninja-build pkg-config ccache
  libboost1.81-dev libssl-dev libnghttp2-dev nlohmann-json3-dev libfmt-dev libcli11-dev libyaml-cpp-dev
  libpcre2-dev libutf8proc-dev libsqlite3-dev libpq-dev libjemalloc-dev"
TEST_PACKAGES="libclang-rt-19-dev llvm-19 libgtest-dev libgmock-dev curl openssl procps postgresql redis-server"

if [ -t 2 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\033[1m' plain=$'\033[0m'; else bold= plain=; fi
say() { printf '%s\n' "${bold}==>${plain} $*" >&2; }
stop() { printf '%s\n' "ashlar: $*" >&2; exit 1; }

missing_packages() {
  local package
  for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || printf '%s ' "$package"
  done
}

# Installs those of the named packages that are not there yet.
need_packages() {
  command -v apt-get >/dev/null && command -v dpkg-query >/dev/null ||
    stop "this script installs its tools with apt-get, which this system does not have. Install by hand: $*"
  local missing as_root=
  missing=$(missing_packages "$@")
  [ -n "$missing" ] || return 0
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || stop "these packages are missing, and only root can install them: $missing"
    as_root=sudo
  fi
  say "Installing: $missing"
  local log
  log=$(mktemp)
  # shellcheck disable=SC2086
  if ! { $as_root apt-get update -qq && $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing; } >"$log" 2>&1 </dev/null; then
    tail -n 15 "$log" >&2
    rm -f "$log"
    stop "apt-get could not install: $missing(see above; is the network there, and is this Debian 12?)"
  fi
  rm -f "$log"
}

# build PRESET [TARGET...]: configures where needed and builds, quietly unless it fails.
build() {
  local preset=$1
  shift
  local log
  log=$(mktemp)
  if [ ! -f "build/$preset/build.ninja" ]; then
    say "Configuring build/$preset"
    cmake --preset "$preset" >"$log" 2>&1 || { tail -n 40 "$log" >&2; rm -f "$log"; stop "cmake could not configure the preset '$preset' (see above)"; }
  fi
  say "Building build/$preset (the first time takes some minutes)"
  if [ -t 2 ]; then
    cmake --build --preset "$preset" ${1:+--target "$@"} >&2 || { rm -f "$log"; stop "the build failed (see above)"; }
  else
    cmake --build --preset "$preset" ${1:+--target "$@"} >"$log" 2>&1 || { tail -n 60 "$log" >&2; rm -f "$log"; stop "the build failed (see above)"; }
  fi
  rm -f "$log"
}
