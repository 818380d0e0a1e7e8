#include "tap.h"

using llc::captured_layer;
using llc::directions;
using llc::guarded;
using llc::invalid_argument;

namespace {

constexpr const char   NAME[]   = "l_out-";
constexpr const size_t NAME_LEN = sizeof(NAME) - 1;

// Number of the layer whose output a tensor is, -1 for other tensors.
int32_t layer_of(const char * name) {
    if (std::strncmp(name, NAME, NAME_LEN) != 0) {
        return -1;
    }
    int32_t layer = 0;
    const char * at = name + NAME_LEN;
    do {
        if (*at < '0' || *at > '9' || layer >= LLAMA_MAX_LAYERS) {
            return -1;
        }
        layer = layer * 10 + (*at - '0');
    } while (*++at != '\0');
    return layer < LLAMA_MAX_LAYERS ? layer : -1;
}

bool on_tensor(struct ggml_tensor * tensor, bool ask, void * data) {
    const int32_t layer = layer_of(tensor->name);
    if (layer < 0) {
        return !ask;
    }
    auto * tap = static_cast<llc_tap *>(data);
    try {
        if (ask) {
            tap->seen.at(layer) = true;
            return tap->needs(layer);
        }
        tap->computed(tensor, layer);
    } catch (const std::exception & e) {
        tap->error = e.what(); // the computation goes on without the tap; the caller is told when it has ended
    }
    return !ask;
}

} // namespace

void llc_tap::install() {
    const bool on = captures() || std::find(steers.begin(), steers.end(), true) != steers.end();
    if (on) {
        llc::follow_ubatches(ctx);
    }
    llc::set_eval_callback(ctx, on ? on_tensor : nullptr, on ? this : nullptr);
}

enum llc_status llc_tap_new(size_t max_bytes, struct llc_tap ** tap) {
    *tap = nullptr;
    return guarded([&] {
        *tap = new llc_tap(max_bytes);
        return LLC_OK;
    });
}

void llc_tap_free(struct llc_tap * tap) {
    delete tap;
}

enum llc_status llc_tap_attach(struct llc_tap * tap, struct llama_context * ctx) {
    return guarded([&] {
        if (tap->ctx != nullptr || ctx->get_cparams().cb_eval != nullptr) {
            throw invalid_argument("the tap or the context is attached already");
        }
        struct ggml_cgraph * graph = ctx->get_gf_res_reserve()->get_gf(); // upstream built it to reserve memory
        tap->n_embd = llama_model_n_embd(llama_get_model(ctx));
        std::vector<int> count(LLAMA_MAX_LAYERS, 0);
        for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
            const struct ggml_tensor * tensor = ggml_graph_node(graph, i);
            const int32_t layer = layer_of(tensor->name);
            if (layer >= 0 && tensor->type == GGML_TYPE_F32 && tensor->ne[0] == tap->n_embd) {
                ++count[layer];
            }
        }
        tap->offered.resize(LLAMA_MAX_LAYERS);
        for (size_t layer = 0; layer < count.size(); ++layer) {
            tap->offered[layer] = count[layer] == 1; // a layer that is computed in rounds has no output of its own
        }
        tap->captured.resize(LLAMA_MAX_LAYERS);
        tap->steers.assign(LLAMA_MAX_LAYERS, false);
        tap->seen.assign(LLAMA_MAX_LAYERS, false);
        tap->ctx = ctx;
        return LLC_OK;
    });
}

size_t llc_tap_layers(const struct llc_tap * tap, int32_t * layers, size_t capacity) {
    size_t n = 0;
    for (size_t layer = 0; layer < tap->offered.size(); ++layer) {
        if (tap->offered[layer]) {
            if (n < capacity) {
                layers[n] = static_cast<int32_t>(layer);
            }
            ++n;
        }
    }
    return n;
}

enum llc_status llc_tap_capture(
        struct llc_tap * tap, const int32_t * layers, size_t n_layers, enum llc_tap_rows rows) {
    return guarded([&] {
        for (size_t i = 0; i < n_layers; ++i) {
            tap->require_layer(layers[i]);
        }
        for (captured_layer & layer : tap->captured) {
            layer = {};
        }
        for (size_t i = 0; i < n_layers; ++i) {
            tap->captured[layers[i]].wanted = true;
        }
        tap->mode = rows;
        tap->install();
        return LLC_OK;
    });
}

enum llc_status llc_tap_steer(
        struct llc_tap * tap, llama_seq_id seq, const int32_t * layers, size_t n_layers, const float * data) {
    return guarded([&] {
        if (seq < 0 || static_cast<uint32_t>(seq) >= llama_n_seq_max(tap->ctx)) {
            throw invalid_argument("sequence " + std::to_string(seq) + " is out of range");
        }
        directions wanted;
        for (size_t i = 0; i < n_layers; ++i) {
            tap->require_layer(layers[i]);
            wanted[layers[i]].assign(data + i * tap->n_embd, data + (i + 1) * tap->n_embd);
        }
        if (wanted.empty()) {
            tap->steered.erase(seq);
        } else {
            tap->steered[seq] = std::move(wanted);
        }
        std::fill(tap->steers.begin(), tap->steers.end(), false);
        for (const auto & sequence : tap->steered) {
            for (const auto & direction : sequence.second) {
                tap->steers[direction.first] = true;
            }
        }
        tap->install();
        return LLC_OK;
    });
}

enum llc_status llc_tap_begin(struct llc_tap * tap, const struct llama_batch * batch) {
    return guarded([&] {
        tap->error.clear();
        std::fill(tap->seen.begin(), tap->seen.end(), false);
        size_t n_captured = 0;
        for (captured_layer & layer : tap->captured) {
            layer.rows.clear();
            n_captured += layer.wanted;
        }
        if (batch == nullptr) {
            return LLC_OK;
        }
        if (tap->mode == LLC_TAP_ALL &&
            n_captured * batch->n_tokens * tap->n_embd > tap->max_bytes / sizeof(float)) {
            throw invalid_argument(std::to_string(n_captured) + " layers of " + std::to_string(batch->n_tokens) +
                                   " rows take more than max_bytes = " + std::to_string(tap->max_bytes));
        }
        if (tap->steered.empty() || batch->n_seq_id == nullptr || batch->seq_id == nullptr) {
            return LLC_OK;
        }
        static const directions none;
        const auto of = [&](llama_seq_id seq) -> const directions & {
            const auto found = tap->steered.find(seq);
            return found == tap->steered.end() ? none : found->second;
        };
        for (int32_t i = 0; i < batch->n_tokens; ++i) {
            for (int32_t s = 1; s < batch->n_seq_id[i]; ++s) {
                if (of(batch->seq_id[i][s]) != of(batch->seq_id[i][0])) {
                    throw invalid_argument("row " + std::to_string(i) + " belongs to sequences that are steered "
                                           "differently");
                }
            }
        }
        return LLC_OK;
    });
}

const char * llc_tap_error(struct llc_tap * tap) {
    for (size_t layer = 0; tap->error.empty() && layer < tap->seen.size(); ++layer) {
        // settings of the context may change what its graphs name
        if ((tap->steers[layer] || tap->captured[layer].wanted) && !tap->seen[layer]) {
            tap->error = "the graph does not name the output of layer " + std::to_string(layer);
        }
    }
    return tap->error.c_str();
}

void llc_tap_restart(struct llc_tap * tap, llama_seq_id seq) {
    for (captured_layer & layer : tap->captured) {
        layer.rows.clear();
        if (seq < 0) {
            layer.pooled.clear();
        } else {
            layer.pooled.erase(seq);
        }
    }
}

enum llc_status llc_tap_count(const struct llc_tap * tap, int32_t layer, size_t * n_rows) {
    *n_rows = 0;
    return guarded([&] {
        tap->require_layer(layer);
        const captured_layer & from = tap->captured[layer];
        if (!from.wanted) {
            return LLC_NO_OUTPUT;
        }
        *n_rows = tap->mode == LLC_TAP_ALL ? from.rows.row.size() : from.pooled.size();
        return LLC_OK;
    });
}

enum llc_status llc_tap_read(
        const struct llc_tap * tap, int32_t layer, float * values, int32_t * rows, llama_seq_id * seqs,
        llama_pos * positions) {
    return guarded([&] {
        tap->require_layer(layer);
        const captured_layer & from = tap->captured[layer];
        if (tap->mode != LLC_TAP_ALL) {
            for (const auto & [seq, pooled] : from.pooled) {
                const double n = tap->mode == LLC_TAP_MEAN ? static_cast<double>(pooled.n) : 1.0;
                for (const double value : pooled.values) {
                    *values++ = static_cast<float>(value / n);
                }
                *rows++      = pooled.row;
                *seqs++      = seq;
                *positions++ = pooled.pos;
            }
            return LLC_OK;
        }
        std::vector<size_t> order(from.rows.row.size());
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
            return from.rows.row[a] < from.rows.row[b];
        });
        for (const size_t i : order) {
            values = std::copy_n(from.rows.values.begin() + i * tap->n_embd, tap->n_embd, values);
            *rows++      = from.rows.row[i];
            *seqs++      = from.rows.seq[i];
            *positions++ = from.rows.pos[i];
        }
        return LLC_OK;
    });
}
