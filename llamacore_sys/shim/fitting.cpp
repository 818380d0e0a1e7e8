// Fitting a model and a context to the memory of the devices, by upstream's own code.
#include "guard.h"
#include "log_ring.h"
#include "rpc.h"

// All that upstream's fit.cpp includes, so that its code alone lies in the namespace below.
#include "fit.h"
#include "ggml-backend.h"
#include "json.h"
#include "llama-ext.h"
#include "log.h"

#include <array>
#include <cassert>
#include <cinttypes>
#include <cstdarg>
#include <cstdio>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

using llc::guarded;

namespace {

thread_local std::string what_upstream_said;

#ifdef __GNUC__
__attribute__((format(printf, 1, 2)))
#endif
void note(const char * format, ...) {
    char    text[1024];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    what_upstream_said = text;
    const size_t name = what_upstream_said.find(": "); // of the function
    what_upstream_said.erase(0, name == std::string::npos ? 0 : name + 2);
    while (!what_upstream_said.empty() && what_upstream_said.back() == '\n') {
        what_upstream_said.pop_back();
    }
}

} // namespace

// Upstream's code puts a log callback with data of its own stack in place of the process's while it measures: a line of
// any other thread would then be written through memory that may be gone. It is compiled here a second time, without
// that; what it says about its outcome goes to note().
#define llama_log_get(...) ((void) 0)
#define llama_log_set(...) ((void) 0)
#undef LOG_TRC
#undef LOG_WRN
#undef LOG_ERR
#undef LOG_JSON
#define LOG_TRC(...)  ((void) 0)
#define LOG_WRN(...)  note(__VA_ARGS__)
#define LOG_ERR(...)  note(__VA_ARGS__)
#define LOG_JSON(...) ((void) 0)

#ifdef __GNUC__
#    pragma GCC diagnostic push
#    pragma GCC diagnostic ignored "-Wunused"
#    pragma GCC diagnostic ignored "-Wsign-compare"
#endif
namespace upstream_fit {
#include "fit.cpp"
}
#ifdef __GNUC__
#    pragma GCC diagnostic pop
#endif

#undef llama_log_get
#undef llama_log_set

namespace {

// One at a time: it keeps strings in static arrays, and two that measure together would count the same memory twice.
std::mutex fitting;

} // namespace

enum llc_status llc_fit(
        const char * path, struct llama_model_params * model, struct llama_context_params * context, float * split,
        struct llama_model_tensor_buft_override * overrides, size_t * margins, uint32_t n_ctx_min,
        const struct llc_fit_extra * extra, int32_t * outcome) {
    *outcome = COMMON_PARAMS_FIT_STATUS_ERROR;
    return guarded([&] {
        const std::lock_guard<std::mutex> lock(fitting);
        const llc::quiet_scope            quiet(GGML_LOG_LEVEL_ERROR);
        llc::require_devices(model->devices);
        common_fit_extra_model second{};
        if (extra != nullptr) {
            second = {extra->path, extra->model, extra->context, extra->shares_model};
        }
        what_upstream_said.clear();
        *outcome = upstream_fit::common_fit_params(
                path, model, context, split, overrides, margins, n_ctx_min, extra ? &second : nullptr,
                GGML_LOG_LEVEL_WARN);
        llc::require_devices(model->devices);
        return *outcome == COMMON_PARAMS_FIT_STATUS_SUCCESS ? LLC_OK
                                                            : llc::fail(LLC_FAILED, what_upstream_said.c_str());
    });
}

enum llc_status llc_fit_measure(
        const char * path, const struct llama_model_params * model, const struct llama_context_params * context,
        struct llc_fit_memory * rows, size_t capacity, size_t * count) {
    *count = 0;
    return guarded([&] {
        const std::lock_guard<std::mutex> lock(fitting);
        const llc::quiet_scope            quiet(GGML_LOG_LEVEL_ERROR);
        llc::require_devices(model->devices);
        std::vector<ggml_backend_dev_t> devices;
        uint32_t                        n_layer, n_ctx_train, n_expert;
        common_device_memory_data_vec   found;
        try {
            found = upstream_fit::common_get_device_memory_data(
                    path, model, context, devices, n_layer, n_ctx_train, n_expert, GGML_LOG_LEVEL_WARN);
        } catch (const std::exception &) {
            llc::require_devices(model->devices); // the better reason, if there is one
            throw;
        }
        llc::require_devices(model->devices);
        for (const auto & each : found) { // the last one is the host
            if (*count < capacity) {
                rows[*count] = {*count < devices.size() ? devices[*count] : nullptr, each.total, each.free,
                                each.model, each.context, each.compute};
            }
            ++*count;
        }
        return LLC_OK;
    });
}
