#include "guard.h"

#include "build-info.h"
#include "log.h"
#include "mtmd.h"

#include <cstring>

#ifndef _WIN32
#    include <dlfcn.h>
#endif

const char * llc_build_version(void) {
    return llama_version();
}

const char * llc_build_commit(void) {
    return llama_commit();
}

const char * llc_build_interface(void) {
    return LLC_INTERFACE;
}

size_t llc_struct_size(const char * name) {
    static const struct { const char * name; size_t size; } table[] = {
        {"llama_model_params",            sizeof(llama_model_params)},
        {"llama_context_params",          sizeof(llama_context_params)},
        {"llama_batch",                   sizeof(llama_batch)},
        {"llama_sampler_chain_params",    sizeof(llama_sampler_chain_params)},
        {"llama_model_quantize_params",   sizeof(llama_model_quantize_params)},
        {"llama_model_kv_override",       sizeof(llama_model_kv_override)},
        {"llama_token_data",              sizeof(llama_token_data)},
        {"llama_token_data_array",        sizeof(llama_token_data_array)},
        {"llama_perf_context_data",       sizeof(llama_perf_context_data)},
        {"llc_log_entry",                 sizeof(llc_log_entry)},
        {"llc_memory_use",                sizeof(llc_memory_use)},
    };
    for (const auto & row : table) {
        if (name != nullptr && std::strcmp(row.name, name) == 0) {
            return row.size;
        }
    }
    return 0;
}

const char * llc_symbol_path(const char * library) {
#ifdef _WIN32
    (void) library;
    return "";
#else
    static const struct { const char * name; const void * symbol; } table[] = {
        {"llama",     reinterpret_cast<const void *>(&llama_decode)},
        {"ggml",      reinterpret_cast<const void *>(&ggml_backend_load)},
        {"ggml-base", reinterpret_cast<const void *>(&ggml_init)},
        {"mtmd",      reinterpret_cast<const void *>(&mtmd_default_marker)},
        {"common",    reinterpret_cast<const void *>(&common_log_main)},
        {"shim",      reinterpret_cast<const void *>(&llc_symbol_path)},
    };
    for (const auto & row : table) {
        Dl_info info;
        if (library != nullptr && std::strcmp(row.name, library) == 0 && dladdr(row.symbol, &info) != 0) {
            return info.dli_fname; // owned by the loader
        }
    }
    return "";
#endif
}
