#include "graph_rows.h"
#include "guard.h"

#include "ggml-backend.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

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

struct rows_of_layer {
    std::vector<float>        values;
    std::vector<int32_t>      row; // of the batch
    std::vector<llama_seq_id> seq;
    std::vector<llama_pos>    pos;

    void clear() {
        values.clear();
        row.clear();
        seq.clear();
        pos.clear();
    }
};

struct pooled_rows {
    std::vector<double> values;
    int64_t             n   = 0;
    int32_t             row = 0; // the last one that counted
    llama_pos           pos = 0;
};

struct captured_layer {
    bool                                wanted = false;
    rows_of_layer                       rows;   // LLC_TAP_ALL
    std::map<llama_seq_id, pooled_rows> pooled; // the others
};

using directions = std::map<int32_t, std::vector<float>>; // by layer

} // namespace

struct llc_tap {
    struct llama_context *             ctx    = nullptr;
    int32_t                            n_embd = 0;
    size_t                             max_bytes;
    std::vector<bool>                  offered;  // layers that the graph names
    enum llc_tap_rows                  mode = LLC_TAP_ALL;
    std::vector<captured_layer>        captured;
    std::map<llama_seq_id, directions> steered;
    std::vector<bool>                  steers;   // layers with a direction of some sequence
    std::vector<bool>                  seen;     // layers that the graphs of the last decode have
    std::vector<float>                 buffer;
    std::string                        error;

    explicit llc_tap(size_t max_bytes) : max_bytes(max_bytes) {}

    void require_layer(int32_t layer) const {
        if (layer < 0 || static_cast<size_t>(layer) >= offered.size() || !offered[layer]) {
            throw invalid_argument("the model has no layer output " + std::to_string(layer));
        }
    }

    bool captures() const {
        return std::any_of(captured.begin(), captured.end(), [](const captured_layer & c) { return c.wanted; });
    }

    void install();

    const std::vector<float> * direction(const llama_ubatch & ubatch, uint32_t i, int32_t layer) const {
        const auto sequence = steered.find(ubatch.seq_id[i][0]);
        if (sequence == steered.end()) {
            return nullptr;
        }
        const auto found = sequence->second.find(layer);
        return found == sequence->second.end() ? nullptr : &found->second;
    }

    bool needs(int32_t layer) const {
        if (!error.empty()) {
            return false;
        }
        if (captured[layer].wanted) {
            return true;
        }
        if (!steers[layer]) {
            return false;
        }
        const llama_ubatch & ubatch = llc::current_ubatch(ctx);
        return std::any_of(ubatch.seq_id_unq, ubatch.seq_id_unq + ubatch.n_seqs_unq, [&](llama_seq_id seq) {
            const auto found = steered.find(seq);
            return found != steered.end() && found->second.count(layer) > 0;
        });
    }

    void computed(struct ggml_tensor * tensor, int32_t layer) {
        const llama_ubatch & ubatch = llc::current_ubatch(ctx);
        const auto           rows   = rows_of(tensor, ubatch);
        if (steers[layer]) {
            steer(tensor, ubatch, rows, layer);
        }
        captured_layer & target = captured[layer];
        if (target.wanted) {
            mode == LLC_TAP_ALL ? keep(tensor, ubatch, rows, target.rows) : pool(tensor, ubatch, rows, target.pooled);
        }
    }

  private:
    // Of each row of the tensor its row in the micro-batch; of the last layer only the rows with outputs are computed.
    std::vector<uint32_t> rows_of(const struct ggml_tensor * tensor, const llama_ubatch & ubatch) const {
        if (tensor->type != GGML_TYPE_F32 || tensor->ne[0] != n_embd || tensor->nb[0] != sizeof(float)) {
            throw std::runtime_error(std::string(tensor->name) + " is no row of " + std::to_string(n_embd) +
                                     " float32 per token");
        }
        const auto n = static_cast<size_t>(ggml_nrows(tensor));
        std::vector<uint32_t> rows;
        rows.reserve(n);
        for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
            if (n == ubatch.n_tokens || ubatch.output[i] != 0) {
                rows.push_back(i);
            }
        }
        if (rows.size() != n) {
            throw std::runtime_error(std::string(tensor->name) + " has " + std::to_string(n) + " rows for " +
                                     std::to_string(ubatch.n_tokens) + " tokens");
        }
        return rows;
    }

    static size_t offset(const struct ggml_tensor * tensor, size_t row) {
        return row % tensor->ne[1] * tensor->nb[1] + row / tensor->ne[1] % tensor->ne[2] * tensor->nb[2] +
               row / tensor->ne[1] / tensor->ne[2] * tensor->nb[3];
    }

    // Rows first .. first + n - 1 of the tensor, in as few copies as its layout allows.
    template <typename Copy> void each_piece(const struct ggml_tensor * tensor, size_t first, size_t n, Copy copy) {
        const size_t step = ggml_is_contiguous(tensor) ? n : 1;
        for (size_t i = 0; i < n; i += step) {
            copy(i * n_embd, offset(tensor, first + i), step * n_embd * sizeof(float));
        }
    }

    void get(const struct ggml_tensor * tensor, size_t first, size_t n, float * out) {
        each_piece(tensor, first, n, [&](size_t at, size_t offset, size_t size) {
            ggml_backend_tensor_get(tensor, out + at, offset, size);
        });
    }

    void steer(
            struct ggml_tensor * tensor, const llama_ubatch & ubatch, const std::vector<uint32_t> & rows,
            int32_t layer) {
        for (size_t first = 0; first < rows.size();) {
            size_t end = first;
            while (end < rows.size() && direction(ubatch, rows[end], layer) != nullptr) {
                ++end;
            }
            if (end == first) {
                ++first;
                continue;
            }
            buffer.resize((end - first) * n_embd);
            get(tensor, first, end - first, buffer.data());
            for (size_t i = first; i < end; ++i) {
                const std::vector<float> & add = *direction(ubatch, rows[i], layer);
                float * row = buffer.data() + (i - first) * n_embd;
                for (int32_t k = 0; k < n_embd; ++k) {
                    row[k] += add[k];
                }
            }
            each_piece(tensor, first, end - first, [&](size_t at, size_t offset, size_t size) {
                ggml_backend_tensor_set(tensor, buffer.data() + at, offset, size);
            });
            first = end;
        }
    }

    void keep(
            const struct ggml_tensor * tensor, const llama_ubatch & ubatch, const std::vector<uint32_t> & rows,
            rows_of_layer & into) {
        const size_t before = into.values.size();
        size_t bytes = rows.size() * n_embd * sizeof(float);
        for (const captured_layer & layer : captured) {
            bytes += layer.rows.values.size() * sizeof(float);
        }
        if (bytes > max_bytes) {
            throw std::runtime_error("the captured rows of one decode take more than max_bytes = " +
                                     std::to_string(max_bytes));
        }
        into.values.resize(before + rows.size() * n_embd);
        get(tensor, 0, rows.size(), into.values.data() + before);
        for (const uint32_t i : rows) {
            into.row.push_back(ubatch.data->batch_idxs[i]);
            into.seq.push_back(*std::min_element(ubatch.seq_id[i], ubatch.seq_id[i] + ubatch.n_seq_id[i]));
            into.pos.push_back(ubatch.pos[i]);
        }
    }

    void pool(
            const struct ggml_tensor * tensor, const llama_ubatch & ubatch, const std::vector<uint32_t> & rows,
            std::map<llama_seq_id, pooled_rows> & into) {
        if (mode == LLC_TAP_MEAN) {
            buffer.resize(rows.size() * n_embd);
            get(tensor, 0, rows.size(), buffer.data());
        } else {
            buffer.resize(n_embd);
        }
        for (size_t k = 0; k < rows.size(); ++k) {
            const uint32_t i = rows[k];
            for (int32_t s = 0; s < ubatch.n_seq_id[i]; ++s) {
                const llama_seq_id seq = ubatch.seq_id[i][s];
                if (mode == LLC_TAP_LAST && !last_of(ubatch, rows, k, seq)) {
                    continue;
                }
                pooled_rows & target = into[seq];
                ++target.n;
                if (mode == LLC_TAP_FIRST && target.n > 1) {
                    continue;
                }
                target.row = ubatch.data->batch_idxs[i];
                target.pos = ubatch.pos[i];
                target.values.resize(n_embd);
                if (mode == LLC_TAP_MEAN) {
                    for (int32_t j = 0; j < n_embd; ++j) {
                        target.values[j] += buffer[k * n_embd + j];
                    }
                } else {
                    get(tensor, k, 1, buffer.data());
                    std::copy(buffer.begin(), buffer.end(), target.values.begin());
                }
            }
        }
    }

    static bool last_of(
            const llama_ubatch & ubatch, const std::vector<uint32_t> & rows, size_t k, llama_seq_id seq) {
        for (size_t next = k + 1; next < rows.size(); ++next) {
            const llama_seq_id * ids = ubatch.seq_id[rows[next]];
            if (std::find(ids, ids + ubatch.n_seq_id[rows[next]], seq) != ids + ubatch.n_seq_id[rows[next]]) {
                return false;
            }
        }
        return true;
    }
};

namespace {

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
