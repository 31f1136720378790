#include "text/basic_tokenizer.h"
namespace ashlar::text {
Result<std::shared_ptr<const Tokenizer>> create_sentencepiece(Vocabulary) { return Error{Code::unsupported, "x"}; }
Result<std::shared_ptr<const Tokenizer>> create_unigram(Vocabulary) { return Error{Code::unsupported, "x"}; }
Result<std::shared_ptr<const Tokenizer>> create_wordpiece(Vocabulary) { return Error{Code::unsupported, "x"}; }
}
