// The most likely tokens of a row of logits, without a sort of all of them.
#pragma once

#include "llama.h"

#include <vector>

namespace llc {

// The n_first most likely tokens from `start` to `end`, in the order of their ids; NaN is none. `found` has room for them.
void likeliest(
        const float * logits, int32_t start, int32_t end, size_t n_first, std::vector<llama_token_data> & found);

} // namespace llc
