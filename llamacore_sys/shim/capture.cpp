#include "guard.h"

#include "ggml-backend.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

using llc::guarded;

struct llc_capture {
    struct entry {
        std::string        name;
        int64_t            shape[4];
        std::vector<float> data;
    };

    std::vector<std::string> names;
    std::vector<std::string> prefixes;
    size_t                   max_bytes = 0;
    size_t                   bytes     = 0;
    std::vector<entry>       entries;
    std::vector<uint8_t>     raw; // reused between tensors
    std::string              error;

    bool wants(const char * name) const {
        return std::any_of(names.begin(), names.end(), [&](const std::string & n) { return n == name; }) ||
               std::any_of(prefixes.begin(), prefixes.end(), [&](const std::string & p) {
                   return std::strncmp(name, p.c_str(), p.size()) == 0;
               });
    }

    void append(const struct ggml_tensor * tensor) {
        const size_t n = static_cast<size_t>(ggml_nelements(tensor));
        bytes += n * sizeof(float);
        if (bytes > max_bytes) {
            throw std::runtime_error("the captured tensors of one decode take more than max_bytes = " +
                                     std::to_string(max_bytes));
        }
        entry & target = find(tensor);
        const size_t before = target.data.size();
        target.data.resize(before + n);
        read(tensor, target.data.data() + before);
    }

  private:
    // micro-batches of one decode follow one another along the second dimension, which counts tokens
    entry & find(const struct ggml_tensor * tensor) {
        for (auto & e : entries) {
            if (e.name == tensor->name) {
                if (e.shape[0] == tensor->ne[0] && e.shape[2] == 1 && e.shape[3] == 1 && tensor->ne[2] == 1 &&
                    tensor->ne[3] == 1) {
                    e.shape[1] += tensor->ne[1];
                } else {
                    e.data.clear(); // not a row per token: the last one counts
                    std::copy_n(tensor->ne, 4, e.shape);
                }
                return e;
            }
        }
        entries.emplace_back();
        entries.back().name = tensor->name;
        std::copy_n(tensor->ne, 4, entries.back().shape);
        return entries.back();
    }

    void read(const struct ggml_tensor * tensor, float * out) {
        raw.resize(ggml_nbytes(tensor));
        ggml_backend_tensor_get(tensor, raw.data(), 0, raw.size());
        for (int64_t i3 = 0; i3 < tensor->ne[3]; ++i3) {
            for (int64_t i2 = 0; i2 < tensor->ne[2]; ++i2) {
                for (int64_t i1 = 0; i1 < tensor->ne[1]; ++i1) {
                    const uint8_t * row = raw.data() + i1 * tensor->nb[1] + i2 * tensor->nb[2] + i3 * tensor->nb[3];
                    for (int64_t i0 = 0; i0 < tensor->ne[0]; ++i0) {
                        *out++ = number(tensor->type, row + i0 * tensor->nb[0]);
                    }
                }
            }
        }
    }

    static float number(enum ggml_type type, const uint8_t * at) {
        switch (type) {
            case GGML_TYPE_F32:  { float v;       std::memcpy(&v, at, sizeof(v)); return v; }
            case GGML_TYPE_F16:  { ggml_fp16_t v; std::memcpy(&v, at, sizeof(v)); return ggml_fp16_to_fp32(v); }
            case GGML_TYPE_BF16: { ggml_bf16_t v; std::memcpy(&v, at, sizeof(v)); return ggml_bf16_to_fp32(v); }
            case GGML_TYPE_I32:  { int32_t v;     std::memcpy(&v, at, sizeof(v)); return static_cast<float>(v); }
            default: throw std::runtime_error(std::string("a captured tensor has the type ") + ggml_type_name(type));
        }
    }
};

enum llc_status llc_capture_new(
        const char ** names, size_t n_names, const char ** prefixes, size_t n_prefixes, size_t max_bytes,
        struct llc_capture ** capture) {
    *capture = nullptr;
    return guarded([&] {
        auto made = std::make_unique<llc_capture>();
        made->names.assign(names, names + n_names);
        made->prefixes.assign(prefixes, prefixes + n_prefixes);
        made->max_bytes = max_bytes;
        *capture = made.release();
        return LLC_OK;
    });
}

void llc_capture_free(struct llc_capture * capture) {
    delete capture;
}

void llc_capture_begin(struct llc_capture * capture) {
    capture->entries.clear();
    capture->error.clear();
    capture->bytes = 0;
}

size_t llc_capture_count(const struct llc_capture * capture) {
    return capture->entries.size();
}

bool llc_capture_get(const struct llc_capture * capture, size_t index, struct llc_captured * result) {
    if (index >= capture->entries.size()) {
        return false;
    }
    const auto & e = capture->entries[index];
    result->name = e.name.c_str();
    result->data = e.data.data();
    std::copy_n(e.shape, 4, result->shape);
    return true;
}

const char * llc_capture_error(const struct llc_capture * capture) {
    return capture->error.c_str();
}

bool llc_capture_callback(struct ggml_tensor * tensor, bool ask, void * data) {
    auto * capture = static_cast<llc_capture *>(data);
    if (ask) {
        return capture->error.empty() && capture->wants(tensor->name);
    }
    try {
        capture->append(tensor);
        return true;
    } catch (const std::exception & e) {
        capture->error = e.what(); // std::string of a short message: small enough not to throw again
        return false;              // ends the computation
    }
}
