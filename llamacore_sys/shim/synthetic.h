// Acceptance at random, at the rates of a speculation session, for benchmarks.
#pragma once

#include <cstdint>

struct llc_spec;

namespace llc {

// Whether the token at that place of a draft is taken; always false for a session without rates.
bool spec_takes(struct llc_spec & spec, int32_t place);

} // namespace llc
