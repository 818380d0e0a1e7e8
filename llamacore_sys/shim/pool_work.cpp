#include "pool_work.h"

#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml-cpu.h"

#include <map>
#include <mutex>
#include <vector>

namespace {

// A back end for each pool: one that is told to use another pool puts the threads of the first one to sleep.
std::mutex                                             mutex;
std::map<struct ggml_threadpool *, ggml_backend_ptr> backends;

struct job {
    llc::pool_work work;
    void *         data;
};

void run_part(struct ggml_tensor *, const struct ggml_tensor *, int part, int n_parts, void * data) {
    const auto * of = static_cast<const job *>(data);
    of->work(of->data, part, n_parts);
}

ggml_backend_t backend_of(struct ggml_threadpool * pool, int32_t n_threads) {
    std::lock_guard<std::mutex> lock(mutex);
    auto & backend = backends[pool];
    if (backend == nullptr) {
        auto * device   = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
        auto * registry = ggml_backend_dev_backend_reg(device);
        backend.reset(ggml_backend_dev_init(device, nullptr));
        const auto use = [&](const char * name) { return ggml_backend_reg_get_proc_address(registry, name); };
        reinterpret_cast<ggml_backend_set_n_threads_t>(use("ggml_backend_set_n_threads"))(backend.get(), n_threads);
        reinterpret_cast<decltype(ggml_backend_cpu_set_threadpool) *>(use("ggml_backend_cpu_set_threadpool"))(
            backend.get(), pool);
    }
    return backend.get();
}

} // namespace

void llc::run_on_pool(struct ggml_threadpool * pool, int32_t n_threads, pool_work work, void * data) {
    if (pool == nullptr || n_threads < 2) {
        return work(data, 0, 1);
    }
    job  of = {work, data};
    auto * backend = backend_of(pool, n_threads);
    std::vector<uint8_t> memory(4 * ggml_tensor_overhead() + ggml_graph_overhead_custom(2, false));
    ggml_context_ptr     context(ggml_init({memory.size(), memory.data(), true}));
    float                nothing = 0.0f;
    auto * input  = ggml_new_tensor_1d(context.get(), GGML_TYPE_F32, 1);
    input->data   = &nothing;
    auto * output = ggml_map_custom1(context.get(), input, run_part, GGML_N_TASKS_MAX, &of);
    output->data  = &nothing;
    auto * graph  = ggml_new_graph_custom(context.get(), 2, false);
    ggml_build_forward_expand(graph, output);
    ggml_backend_graph_compute(backend, graph);
}

void llc::forget_pool(struct ggml_threadpool * pool) {
    std::lock_guard<std::mutex> lock(mutex);
    backends.erase(pool);
}
