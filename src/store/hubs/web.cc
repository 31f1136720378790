// Any address: one file, of which nothing is known beforehand.
#include "store/hub.h"
#include "store/wire.h"

namespace ashlar::store {

Result<Listing> list_web(const Reference& reference) {
  Listing listing{.endpoint = TRY(origin_of(reference.url))};
  listing.files.push_back({.name = reference.file, .address = {.url = reference.url}});
  return listing;
}

}  // namespace ashlar::store
