// The reasoning budget as a sampler that can start inside a thought, and again there when it is reset.
#pragma once

#include "reasoning-budget.h"

namespace llc {

// null for any other sampler
const struct llama_sampler * reasoning_budget_of(const struct llama_sampler * sampler);

} // namespace llc
