#include "guard.h"
#include "rpc.h"
#include "watch.h"

#include "llama-ext.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <mutex>
#include <string>
#include <vector>

using llc::guarded;
using llc::require;

namespace {

// Upstream reads this switch from the environment while it creates a context; the mutex keeps the setting of one
// creation out of another's.
constexpr const char * ATTN_ROT_SWITCH = "LLAMA_ATTN_ROT_DISABLE";

class attn_rot_disabled {
  public:
    explicit attn_rot_disabled(bool disable) : lock_(mutex()) {
        if (disable) {
            const char * value = std::getenv(ATTN_ROT_SWITCH);
            had_value_ = value != nullptr;
            previous_  = had_value_ ? value : "";
            set("1");
            changed_ = true;
        }
    }

    ~attn_rot_disabled() {
        if (changed_) {
            set(had_value_ ? previous_.c_str() : nullptr);
        }
    }

  private:
    static std::mutex & mutex() {
        static std::mutex m;
        return m;
    }

    static void set(const char * value) {
#ifdef _WIN32
        _putenv_s(ATTN_ROT_SWITCH, value ? value : "");
#else
        value ? setenv(ATTN_ROT_SWITCH, value, 1) : unsetenv(ATTN_ROT_SWITCH);
#endif
    }

    std::lock_guard<std::mutex> lock_;
    bool                        changed_   = false;
    bool                        had_value_ = false;
    std::string                 previous_;
};

// What llama_decode and llama_encode assert on, or read without looking.
void check_batch(const struct llama_context * ctx, const struct llama_batch & batch) {
    require(batch.n_tokens > 0, "the batch is empty");
    const auto n_batch = llama_n_batch(ctx);
    require(static_cast<uint32_t>(batch.n_tokens) <= n_batch,
            "the batch has ", batch.n_tokens, " tokens, the context takes at most n_batch = ", n_batch, " at a time");
    require(llama_get_causal_attn(ctx) || static_cast<uint32_t>(batch.n_tokens) <= llama_n_ubatch(ctx),
            "without causal attention a batch must fit into one micro-batch: it has ", batch.n_tokens,
            " tokens, n_ubatch is ", llama_n_ubatch(ctx));
    require(batch.token != nullptr || batch.embd != nullptr, "the batch has neither tokens nor embeddings");

    const auto n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(ctx)));
    const auto n_seq   = static_cast<llama_seq_id>(llama_n_seq_max(ctx));
    for (int32_t i = 0; i < batch.n_tokens; ++i) {
        if (batch.token != nullptr) {
            require(batch.token[i] >= 0 && batch.token[i] < n_vocab,
                    "token ", batch.token[i], " at row ", i, " is not in the vocabulary (0 to ", n_vocab - 1, ")");
        }
        if (batch.pos != nullptr) {
            require(batch.pos[i] >= 0, "position ", batch.pos[i], " at row ", i, " is negative");
        }
        if (batch.n_seq_id != nullptr && batch.seq_id != nullptr) {
            require(batch.n_seq_id[i] > 0, "row ", i, " belongs to no sequence");
            for (int32_t s = 0; s < batch.n_seq_id[i]; ++s) {
                require(batch.seq_id[i][s] >= 0 && batch.seq_id[i][s] < n_seq,
                        "sequence ", batch.seq_id[i][s], " at row ", i,
                        " is out of range, the context has n_seq_max = ", n_seq);
            }
        }
    }
}

} // namespace

enum llc_status llc_context_new(
        struct llama_model * model, const struct llama_context_params * params, bool disable_attn_rot,
        struct llama_context ** ctx) {
    *ctx = nullptr;
    return guarded([&] {
        attn_rot_disabled scope(disable_attn_rot);
        llc::require_devices(model);
        *ctx = llama_init_from_model(model, *params);
        try {
            llc::require_devices(model);
        } catch (...) {
            llama_free(*ctx);
            *ctx = nullptr;
            throw;
        }
        return *ctx != nullptr ? LLC_OK : LLC_FAILED;
    });
}

bool llc_abort_callback(void * data) {
    return data != nullptr && reinterpret_cast<std::atomic<int32_t> *>(data)->load(std::memory_order_relaxed) != 0;
}

enum llc_status llc_context_memory_use(
        const struct llama_context * ctx, struct llc_memory_use * rows, size_t capacity, size_t * count) {
    *count = 0;
    return guarded([&] {
        for (const auto & [buft, use] : llama_get_memory_breakdown(ctx)) {
            if (*count < capacity) {
                rows[*count] = {buft, use.model, use.context, use.compute};
            }
            ++*count;
        }
        return LLC_OK;
    });
}

enum llc_status llc_decode(
        struct llama_context * ctx, const struct llama_batch * batch, uint32_t n_outputs_max, int32_t * code) {
    *code = 0;
    return guarded([&] {
        check_batch(ctx, *batch);
        require(llama_get_memory(ctx) != nullptr || !llama_model_has_encoder(llama_get_model(ctx)) ||
                llama_model_has_decoder(llama_get_model(ctx)),
                "this model only encodes: call encode()");
        if (batch->logits != nullptr) {
            const auto n_outputs = std::count_if(batch->logits, batch->logits + batch->n_tokens,
                                                 [](int8_t flag) { return flag != 0; });
            require(static_cast<uint32_t>(n_outputs) <= n_outputs_max,
                    n_outputs, " rows of the batch are marked as outputs, the context was made for n_outputs_max = ",
                    n_outputs_max);
        }
        llc::decode_scope scope(ctx);
        *code = llama_decode(ctx, *batch);
        scope.computed();
        if (*code != 0) {
            return LLC_FAILED;
        }
        scope.done(*batch);
        return LLC_OK;
    });
}

enum llc_status llc_encode(struct llama_context * ctx, const struct llama_batch * batch, int32_t * code) {
    *code = 0;
    return guarded([&] {
        check_batch(ctx, *batch);
        require(static_cast<uint32_t>(batch->n_tokens) <= llama_n_ubatch(ctx),
                "an encoder takes its input in one piece: the batch has ", batch->n_tokens, " tokens, n_ubatch is ",
                llama_n_ubatch(ctx));
        llc::decode_scope scope(ctx);
        *code = llama_encode(ctx, *batch);
        scope.computed();
        return *code == 0 ? LLC_OK : LLC_FAILED;
    });
}

enum llc_status llc_logits(struct llama_context * ctx, int32_t i, float ** row) {
    *row = nullptr;
    return guarded([&] {
        *row = llama_get_logits_ith(ctx, i);
        return *row != nullptr ? LLC_OK : LLC_NO_OUTPUT;
    });
}

enum llc_status llc_embeddings(struct llama_context * ctx, int32_t i, float ** row) {
    *row = nullptr;
    return guarded([&] {
        *row = llama_get_embeddings_ith(ctx, i);
        return *row != nullptr ? LLC_OK : LLC_NO_OUTPUT;
    });
}

enum llc_status llc_embeddings_seq(struct llama_context * ctx, llama_seq_id seq_id, float ** row) {
    *row = nullptr;
    return guarded([&] {
        *row = llama_get_embeddings_seq(ctx, seq_id);
        return *row != nullptr ? LLC_OK : LLC_NO_OUTPUT;
    });
}

enum llc_status llc_logprobs(
        struct llama_context * ctx, int32_t i, llama_token token, float * token_logprob,
        int32_t n_top, llama_token * top_tokens, float * top_logprobs) {
    return guarded([&] {
        const float * logits = llama_get_logits_ith(ctx, i);
        if (logits == nullptr) {
            return LLC_NO_OUTPUT;
        }
        const int32_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(ctx)));
        require(token < n_vocab, "token ", token, " is not in the vocabulary");
        require(n_top >= 0 && n_top <= n_vocab, "n_top is ", n_top, ", not 0 to ", n_vocab);
        const float highest = *std::max_element(logits, logits + n_vocab);
        double      sum     = 0.0;
        for (int32_t t = 0; t < n_vocab; ++t) {
            sum += std::exp(static_cast<double>(logits[t] - highest));
        }
        const float log_sum = highest + static_cast<float>(std::log(sum));
        if (token >= 0 && token_logprob != nullptr) {
            *token_logprob = logits[token] - log_sum;
        }
        if (n_top > 0) {
            std::vector<llama_token> order(n_vocab);
            for (int32_t t = 0; t < n_vocab; ++t) {
                order[t] = t;
            }
            std::partial_sort(order.begin(), order.begin() + n_top, order.end(), [&](llama_token a, llama_token b) {
                return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
            });
            for (int32_t k = 0; k < n_top; ++k) {
                top_tokens[k]   = order[k];
                top_logprobs[k] = logits[order[k]] - log_sum;
            }
        }
        return LLC_OK;
    });
}
