// Work of ours on the threads of a pool that computes graphs.
#pragma once

#include <cstdint>

struct ggml_threadpool;

namespace llc {

// Part `part` of `n_parts`; must not throw, for nothing can catch it on a thread of the pool.
using pool_work = void (*)(void * data, int part, int n_parts);

// Runs the work on all threads of the pool at once. They look out for the next graph right after a decode, so that it
// costs microseconds; threads of our own would have to wait until these let a core go.
void run_on_pool(struct ggml_threadpool * pool, int32_t n_threads, pool_work work, void * data);

// Before the pool is freed.
void forget_pool(struct ggml_threadpool * pool);

} // namespace llc
