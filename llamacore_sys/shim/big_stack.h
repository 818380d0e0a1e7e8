// Upstream's template engine and reply parsers recurse with what they read, without a bound.
#pragma once

#include <cstddef>
#include <functional>

namespace llc {

// Runs body on a stack of its own of this many bytes (address space: only what is used is ever backed by memory).
// What body throws comes out here; a failed GGML_ASSERT in it is thrown as well.
void on_big_stack(size_t bytes, const std::function<void()> & body);

} // namespace llc
