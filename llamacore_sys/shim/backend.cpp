// Back ends: the modules that are opened at run time, one at a time and with the reason when one cannot be used.
#include "foreign.h"
#include "guard.h"

#include "../ggml/src/ggml-backend-impl.h"

#include <filesystem>

#ifdef _WIN32
#    define WIN32_LEAN_AND_MEAN
#    include <windows.h>
#else
#    include <dlfcn.h>
#endif

namespace fs = std::filesystem;

using llc::guarded;

namespace {

struct unusable : std::runtime_error {
    using std::runtime_error::runtime_error;
};

#ifdef _WIN32
void * open_library(const fs::path & path) {
    HMODULE handle = LoadLibraryW(path.wstring().c_str());
    if (handle == nullptr) {
        throw unusable(path.u8string() + " cannot be opened: error " + std::to_string(GetLastError()));
    }
    return handle;
}

void close_library(void * handle) {
    FreeLibrary(static_cast<HMODULE>(handle));
}

template <typename Function> Function find(void * handle, const char * name) {
    return reinterpret_cast<Function>(GetProcAddress(static_cast<HMODULE>(handle), name));
}

void check_ggml(void *) {}
#else
void * open_library(const fs::path & path) {
    void * handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
        const char * reason = dlerror();
        throw unusable(reason != nullptr ? reason : "it cannot be opened");
    }
    return handle;
}

void close_library(void * handle) {
    dlclose(handle);
}

template <typename Function> Function find(void * handle, const char * name) {
    return reinterpret_cast<Function>(dlsym(handle, name));
}

// A module of another package is linked with that package's ggml: its objects would not be ours.
void check_ggml(void * handle) {
    void * theirs = dlsym(handle, "ggml_backend_buffer_init");
    if (theirs != nullptr && theirs != reinterpret_cast<void *>(&ggml_backend_buffer_init)) {
        Dl_info info;
        const char * path = dladdr(theirs, &info) != 0 ? info.dli_fname : "another library";
        throw unusable(std::string("it is linked with another ggml: ") + path);
    }
    const std::string foreign = llc::foreign_symbol(handle);
    if (!foreign.empty()) {
        throw unusable("its calls would go to another library of this process: " + foreign);
    }
}
#endif

int score_of(void * handle) {
    auto score = find<ggml_backend_score_t>(handle, "ggml_backend_score");
    return score != nullptr ? score() : 1;
}

// What is opened stays open, used or not: it may have started threads.
ggml_backend_reg_t load(const fs::path & path) {
    void * handle = open_library(path);
    auto   init   = find<ggml_backend_init_t>(handle, "ggml_backend_init");
    if (init == nullptr) {
        throw unusable("it is no back end of ggml: it has no function ggml_backend_init");
    }
    check_ggml(handle);
    if (score_of(handle) == 0) {
        throw unusable("it is not made for this processor");
    }
    ggml_backend_reg_t reg = init();
    if (reg == nullptr) {
        throw unusable("its ggml_backend_init returned nothing");
    }
    if (reg->api_version != GGML_BACKEND_API_VERSION) {
        throw unusable("it is made for version " + std::to_string(reg->api_version) +
                       " of ggml's interface for back ends, this is version " +
                       std::to_string(GGML_BACKEND_API_VERSION));
    }
    const char * name = ggml_backend_reg_name(reg);
    if (ggml_backend_reg_by_name(name) != nullptr) {
        throw unusable(std::string("there is a back end ") + name + " already");
    }
    ggml_backend_register(reg);
    return reg;
}

} // namespace

enum llc_status llc_backend_init(void) {
    return guarded([&] {
        auto * cpu = ggml_backend_reg_by_name("CPU");
        if (cpu == nullptr || ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU) == nullptr) {
            throw std::runtime_error("there is no CPU back end");
        }
        if (ggml_backend_reg_get(ggml_backend_reg_count() - 1) != cpu) {
            // linked in, it came before the modules; upstream has the CPU last
            ggml_backend_unload(cpu);
            ggml_backend_register(cpu);
        }
        llama_backend_init();
        return LLC_OK;
    });
}

enum llc_status llc_backend_score(const char * path, int32_t * score) {
    *score = 0;
    return guarded([&] {
        if (path == nullptr) {
            throw llc::invalid_argument("path is NULL");
        }
        try {
            void * handle = open_library(fs::u8path(path));
            *score = score_of(handle);
            close_library(handle);
        } catch (const unusable & e) {
            return llc::fail(LLC_UNAVAILABLE, e.what());
        }
        return LLC_OK;
    });
}

enum llc_status llc_backend_load(const char * path, struct ggml_backend_reg ** reg) {
    *reg = nullptr;
    return guarded([&] {
        if (path == nullptr) {
            throw llc::invalid_argument("path is NULL");
        }
        try {
            *reg = load(fs::u8path(path));
        } catch (const unusable & e) {
            return llc::fail(LLC_UNAVAILABLE, e.what());
        }
        return LLC_OK;
    });
}

enum llc_status llc_device_props(ggml_backend_dev_t device, struct ggml_backend_dev_props * props) {
    *props = {};
    return guarded([&] {
        ggml_backend_dev_get_props(device, props); // asks the driver, which may refuse
        return LLC_OK;
    });
}

const char * llc_backend_path(const struct ggml_backend_reg * reg) {
#ifdef _WIN32
    (void) reg;
#else
    Dl_info info;
    if (reg != nullptr && dladdr(reinterpret_cast<const void *>(reg->iface.get_name), &info) != 0) {
        return info.dli_fname; // owned by the loader
    }
#endif
    return "";
}
