#include "guard.h"
#include "pool_work.h"
#include "rpc.h"

#include "common.h"
#include "ggml-cpu.h"
#include "imatrix-loader.h"
#include "llama-ext.h"

#include <memory>
#include <string>
#include <vector>

using llc::guarded;

enum llc_status llc_model_load(
        const char ** paths, size_t n_paths, const struct llama_model_params * params, struct llama_model ** model) {
    *model = nullptr;
    return guarded([&] {
        llc::require_devices(params->devices);
        *model = n_paths == 1 ? llama_model_load_from_file(paths[0], *params)
                              : llama_model_load_from_splits(paths, n_paths, *params);
        try {
            llc::require_devices(params->devices); // of what was loaded while a server went away nothing can be trusted
        } catch (...) {
            llama_model_free(*model);
            *model = nullptr;
            throw;
        }
        if (*model == nullptr) {
            return LLC_FAILED;
        }
        llc::remember_split(*model, params->devices);
        return LLC_OK;
    });
}

enum llc_status llc_model_save(const struct llama_model * model, const char * path) {
    return guarded([&] {
        llama_model_save_to_file(model, path);
        return LLC_OK;
    });
}

enum llc_status llc_model_quantize(
        const char * input, const char * output, const llama_model_quantize_params * params) {
    return guarded([&] { return llama_model_quantize(input, output, params) == 0 ? LLC_OK : LLC_FAILED; });
}

struct llc_imatrix {
    struct entry {
        std::string        name;
        std::vector<float> data;
    };
    std::vector<entry> entries;
};

// Means per column, as upstream's quantize tool derives them from the sums and counts of the file.
enum llc_status llc_imatrix_load(const char * path, struct llc_imatrix ** imatrix) {
    *imatrix = nullptr;
    return guarded([&] {
        common_imatrix file;
        if (!common_imatrix_load(path, file)) {
            return LLC_FAILED;
        }
        auto result = std::make_unique<llc_imatrix>();
        for (const auto & [name, source] : file.entries) {
            if (source.counts.empty() || source.sums.size() % source.counts.size() != 0) {
                throw std::runtime_error("entry " + name + " of the importance matrix is inconsistent");
            }
            std::vector<float> data(source.sums.size());
            const size_t       columns = source.sums.size() / source.counts.size();
            for (size_t i = 0; i < data.size(); ++i) {
                const auto count = source.counts[i / columns];
                data[i] = count > 0 ? source.sums[i] / static_cast<float>(count) : 1.0f;
            }
            result->entries.push_back({name, std::move(data)});
        }
        *imatrix = result.release();
        return LLC_OK;
    });
}

void llc_imatrix_free(struct llc_imatrix * imatrix) {
    delete imatrix;
}

size_t llc_imatrix_count(const struct llc_imatrix * imatrix) {
    return imatrix->entries.size();
}

const char * llc_imatrix_entry(
        const struct llc_imatrix * imatrix, size_t index, const float ** data, size_t * size) {
    if (index >= imatrix->entries.size()) {
        return nullptr;
    }
    const auto & entry = imatrix->entries[index];
    *data = entry.data.data();
    *size = entry.data.size();
    return entry.name.c_str();
}

int32_t llc_model_n_expert(const struct llama_model * model) {
    return llama_model_n_expert(model);
}

int32_t llc_model_n_devices(const struct llama_model * model) {
    return llama_model_n_devices(model);
}

ggml_backend_dev_t llc_model_device(const struct llama_model * model, int32_t index) {
    return index >= 0 && index < llama_model_n_devices(model) ? llama_model_get_device(model, index) : nullptr;
}

namespace {

template <typename Function> Function * cpu_function(const char * name) {
    auto * device   = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    auto * registry = device ? ggml_backend_dev_backend_reg(device) : nullptr;
    return registry ? reinterpret_cast<Function *>(ggml_backend_reg_get_proc_address(registry, name)) : nullptr;
}

} // namespace

enum llc_status llc_threadpool_new(int32_t n_threads, struct ggml_threadpool ** pool) {
    *pool = nullptr;
    return guarded([&] {
        if (n_threads < 1 || n_threads > GGML_MAX_N_THREADS) {
            throw llc::invalid_argument("n_threads is " + std::to_string(n_threads) + ", not 1 to " +
                                        std::to_string(GGML_MAX_N_THREADS));
        }
        auto * create = cpu_function<decltype(ggml_threadpool_new)>("ggml_threadpool_new");
        if (create == nullptr) {
            throw std::runtime_error("the CPU back end offers no thread pools");
        }
        auto params = ggml_threadpool_params_default(n_threads);
        *pool = create(&params);
        return *pool != nullptr ? LLC_OK : LLC_FAILED;
    });
}

void llc_threadpool_free(struct ggml_threadpool * pool) {
    llc::forget_pool(pool);
    auto * destroy = cpu_function<decltype(ggml_threadpool_free)>("ggml_threadpool_free");
    if (pool != nullptr && destroy != nullptr) {
        destroy(pool);
    }
}
