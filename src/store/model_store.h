// The models on this machine: pulled from hubs into a folder, found by name,
// never served unless their bytes are what the hub said.
//
//   ROOT/blobs/sha256-HEX     the bytes of a file, under their own fingerprint, read-only
//   ROOT/seals/sha256-HEX     what that file looked like when it was last checked
//   ROOT/manifests/SLOT.json  a model: where it comes from, its licence, its files
//   ROOT/models/SLOT/...      the model's files by their names, as links to the blobs
//   ROOT/partial/             what is on its way, with a journal each
//   ROOT/aside/               what came with a wrong checksum
//   ROOT/lock                 held shared by who adds, alone by who removes
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "store/blobs.h"
#include "store/courier.h"
#include "store/files.h"
#include "store/hub.h"
#include "store/manifest.h"
#include "store/reference.h"

namespace ashlar::store {

struct StoreOptions {
  std::string store;  // "": see default_store_folder()
  bool offline = false;
  int pull_connections = 8;
  std::string object_store;
  void fields(auto&& field) {
    field("store", store, "Folder of the pulled models; left out: $XDG_DATA_HOME/ashlar or ~/.local/share/ashlar.");
    field("offline", offline, "Fetch nothing from anywhere: what is not on this machine is an error.");
    field("object_store", object_store,
          "The cold tier, s3://BUCKET/PREFIX or a folder: where `gc --keep` puts models that are seldom used, and from "
          "where they come back.");
    field("pull_connections", pull_connections, "Parts of one file fetched at once.");
  }
};
// ASHLAR_STORE, ASHLAR_OBJECT_STORE, ASHLAR_OFFLINE: whatever does not say no is yes.
StoreOptions store_options_from_environment();
std::string default_store_folder();

struct PullProgress {
  Stage stage = Stage::listing;
  std::string file;         // at work now
  std::uint64_t done = 0;   // bytes of the whole model, with what was here before
  std::uint64_t total = 0;  // as far as it is known
};
// As DownloadWatch.
using PullWatch = std::function<Status(const PullProgress&)>;

struct PullRequest {
  Reference reference;
  std::string alias;   // "": none, or the one that it has
  std::string sha256;  // of the one file that the reference names, where no hub says it; "": not told
};

struct Found {
  Manifest manifest;
  std::string path;  // of the file, or of the folder
};

// What the manifests say. One that cannot be read hides its own model and no other.
struct Shelf {
  std::vector<Manifest> models;  // by reference
  std::vector<Error> damaged;    // a sentence for each of the others, with what mends it
};

struct Reclaimed {
  int files = 0;
  Bytes bytes;
};

// Any number of processes may use one folder. One thread each object.
class ModelStore {
 public:
  struct Parts {
    StoreOptions options;
    HubSettings hubs;
    CourierOptions courier;    // offline: as in the options
    DownloadOptions download;  // connections: as in the options
  };
  // Makes nothing yet. invalid: no folder can be named.
  static Result<std::unique_ptr<ModelStore>> open(Parts parts);
  // With the environment's settings.
  static Result<std::unique_ptr<ModelStore>> open(const StoreOptions& options);

  // Fetches what is not here yet of a model, and keeps it; waits for who removes
  // something just now. Errors as list_model() and download(); corrupt: what came is twice not what the hub said. What
  // came before an error is kept for the next try.
  Result<Manifest> pull(const PullRequest& request, const PullWatch& watch);

  Shelf list() const;
  // not_found, with what to type; invalid: more than one goes by that name.
  Result<Manifest> find(const std::string& name) const;
  // find(), with every file there and checked: one that is damaged is set aside,
  // and what is missing fetched again. Notes the use.
  Result<Found> ready(const std::string& name, const PullWatch& watch);
  // Seconds since 1970.
  std::int64_t used_at(const Manifest& manifest) const;

  // Forgets the model, and removes the bytes that no other needs. As find().
  Result<Reclaimed> remove(const std::string& name);
  // Removes what no model needs: blobs, what was set aside, and downloads that
  // nobody has gone on with for two weeks (all of them, with `partial`).
  // unavailable: somebody is pulling; corrupt: a damaged manifest, whose model may
  // need any of it.
  Result<Reclaimed> gc(bool partial);

  // Moves the models that were used longest ago to the object store until those
  // on the disk take at most `most`; they come back when they are used. invalid:
  // there is no object store; else as gc().
  Result<Reclaimed> cool(Bytes most, const PullWatch& watch);
  // Whether all of its bytes are on this machine's disk.
  bool is_here(const Manifest& manifest) const;

  const std::string& root() const { return root_; }

 private:
  ModelStore(Parts parts, std::string root, std::unique_ptr<Courier> courier, std::unique_ptr<Blobs> cold);
  std::string in(std::string_view folder, std::string_view name) const;
  std::string blob_path(const std::string& sha256) const { return in("blobs", "sha256-" + sha256); }
  std::string seal_path(const std::string& sha256) const { return in("seals", "sha256-" + sha256); }
  std::string manifest_path(const std::string& reference) const;
  // All of list(). corrupt: one is damaged.
  Result<std::vector<Manifest>> all_models() const;
  // Of those who add; it waits for who holds the folder alone.
  Result<FolderLock> share(PullProgress& progress, const PullWatch& watch) const;
  Status make_rooms() const;
  Result<Manifest> pull_version(const PullRequest& request, const Reference& asked, const PullWatch& watch);
  // From the object store. False: it is not there, or not as it should be.
  Result<bool> warm(const StoredFile& file, const PullWatch& watch, PullProgress& progress);
  Result<StoredFile> fetch(const Wanted& wanted, const PullWatch& watch, PullProgress& progress);
  // The file, if it is here already. `old`: what the model had when it was last pulled.
  Result<std::optional<StoredFile>> find_here(const Wanted& wanted, const std::vector<StoredFile>& old,
                                              const Poll& poll) const;
  Status check_alias(const PullRequest& request) const;
  Status check_room(const std::vector<Wanted>& missing) const;
  // Whether the blob is there, and is what its name says; if not it is set aside.
  Result<bool> is_intact(const std::string& sha256, std::uint64_t size, const Poll& poll) const;
  Status seal(const std::string& sha256) const;
  Status make_view(const Manifest& manifest) const;
  std::string view_path(const Manifest& manifest) const;
  Result<Reclaimed> sweep(bool partial) const;

  const Parts parts_;
  const std::string root_;
  const std::unique_ptr<Courier> courier_;
  const std::unique_ptr<Blobs> cold_;  // null: no object store
};

}  // namespace ashlar::store
