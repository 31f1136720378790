#include "models/convert.h"

#include <algorithm>
#include <vector>

#include "models/formats/gguf_writer.h"
#include "models/formats/hf_folder.h"
#include "models/loader.h"

namespace ashlar::models {

Result<ConvertFacts> convert_folder(const std::string& folder, const ConvertWatch& watch, NewFile& out) {
  constexpr std::size_t kWrite = 16 << 20;  // bytes written between two looks at the watch
  gguf::File opened = TRY(open_folder(folder));
  const LoadedModel model = TRY(open_model(std::move(opened)));
  TRY(check_tensors(model));
  const gguf::File& file = *model.file;
  ConvertFacts facts{.architecture = model.facts.architecture, .tensors = static_cast<int>(file.tensors().size())};
  for (const gguf::Tensor& tensor : file.tensors()) facts.bytes += tensor.bytes();

  gguf::Writer writer;
  for (const gguf::Key& key : file.keys()) writer.add(key.name, key.value);
  std::vector<std::byte> room;
  std::uint64_t done = 0;  // bytes of the tensors before the one at work
  const gguf::Tensor* now = nullptr;
  for (const gguf::Tensor& tensor : file.tensors())
    writer.add_tensor(tensor.name, tensor.type, {tensor.dims.begin(), tensor.dims.begin() + tensor.rank},
                      tensor.bytes(), [&]() -> Result<std::span<const std::byte>> {
                        if (now != nullptr) {
                          file.release(*now);
                          done += now->bytes();
                        }
                        now = &tensor;
                        TRY(watch(done, facts.bytes, tensor.name));
                        return file.read(tensor, room);
                      });
  TRY(writer.give([&](std::string_view bytes) -> Status {
    for (std::size_t at = 0; at < bytes.size(); at += kWrite) {
      if (now != nullptr) TRY(watch(std::min(done + at, facts.bytes), facts.bytes, now->name));
      TRY(out.write(bytes.substr(at, kWrite)));
    }
    return {};
  }));
  return facts;
}

}  // namespace ashlar::models
