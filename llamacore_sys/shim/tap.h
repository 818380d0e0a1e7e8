// What a tap on the layers of a model keeps: which rows of which layers it copies, and what it adds to them.
#pragma once

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

namespace llc {

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

} // namespace llc

struct llc_tap {
    struct llama_context *                  ctx    = nullptr;
    int32_t                                 n_embd = 0;
    size_t                                  max_bytes;
    std::vector<bool>                       offered;  // layers that the graph names
    enum llc_tap_rows                       mode = LLC_TAP_ALL;
    std::vector<llc::captured_layer>        captured;
    std::map<llama_seq_id, llc::directions> steered;
    std::vector<bool>                       steers;   // layers with a direction of some sequence
    std::vector<bool>                       seen;     // layers that the graphs of the last decode have
    std::vector<float>                      buffer;
    std::string                             error;

    explicit llc_tap(size_t max_bytes) : max_bytes(max_bytes) {}

    void require_layer(int32_t layer) const {
        if (layer < 0 || static_cast<size_t>(layer) >= offered.size() || !offered[layer]) {
            throw llc::invalid_argument("the model has no layer output " + std::to_string(layer));
        }
    }

    bool captures() const {
        return std::any_of(captured.begin(), captured.end(), [](const llc::captured_layer & c) { return c.wanted; });
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
        llc::captured_layer & target = captured[layer];
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
            llc::rows_of_layer & into) {
        const size_t before = into.values.size();
        size_t bytes = rows.size() * n_embd * sizeof(float);
        for (const llc::captured_layer & layer : captured) {
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
            std::map<llama_seq_id, llc::pooled_rows> & into) {
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
                llc::pooled_rows & target = into[seq];
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
