// Inner values that more than one concept asks a context for.
#pragma once

#include "llama.h"

namespace llc {

// Throws invalid_argument when there is no such layer, or the architecture does not offer its input.
void set_layer_input(struct llama_context * ctx, int32_t layer, bool enabled);

} // namespace llc
