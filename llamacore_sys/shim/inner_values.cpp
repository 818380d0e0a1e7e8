#include "inner_values.h"

#include "guard.h"
#include "watch.h"

#include "llama-ext.h"

using llc::guarded;

enum llc_status llc_set_embeddings_nextn(struct llama_context * ctx, bool enabled, bool masked) {
    return guarded([&] {
        llc::require_unwatched(ctx, "next-n embeddings");
        llama_set_embeddings_nextn(ctx, enabled, masked);
        return LLC_OK;
    });
}

enum llc_status llc_embeddings_nextn(struct llama_context * ctx, int32_t i, float ** row) {
    *row = nullptr;
    return guarded([&] {
        *row = llama_get_embeddings_nextn_ith(ctx, i);
        return *row != nullptr ? LLC_OK : LLC_NO_OUTPUT;
    });
}

enum llc_status llc_set_nextn_layer_offset(struct llama_context * ctx, int32_t offset) {
    return guarded([&] {
        llc::require_unwatched(ctx, "MTP block");
        const int32_t n = llama_model_n_layer_nextn(llama_get_model(ctx));
        if (offset < 0 || offset >= n) {
            throw llc::invalid_argument("next-n layer " + std::to_string(offset) + " of " + std::to_string(n));
        }
        llama_set_nextn_layer_offset(ctx, offset);
        return LLC_OK;
    });
}

void llc::set_layer_input(struct llama_context * ctx, int32_t layer, bool enabled) {
    const int32_t n_layer = llama_model_n_layer(llama_get_model(ctx));
    if (layer < 0 || layer > n_layer) {
        throw llc::invalid_argument("layer " + std::to_string(layer) + " is not 0 to " + std::to_string(n_layer));
    }
    llama_set_embeddings_layer_inp(ctx, static_cast<uint32_t>(layer), enabled);
    if (enabled) {
        // few architectures offer it, and building a graph of another one asserts: try that now, not in a decode
        try {
            const auto n_seq = llama_n_seq_max(ctx); // separate memories want a token of each sequence
            llama_graph_reserve(ctx, n_seq, n_seq, n_seq);
        } catch (const llc::ggml_aborted &) {
            llama_set_embeddings_layer_inp(ctx, static_cast<uint32_t>(layer), false);
            throw llc::invalid_argument("this architecture does not offer the input of that layer");
        }
    }
}

enum llc_status llc_set_embeddings_layer_inp(struct llama_context * ctx, int32_t layer, bool enabled) {
    return guarded([&] {
        llc::require_unwatched(ctx, "layer inputs");
        llc::set_layer_input(ctx, layer, enabled);
        return LLC_OK;
    });
}

enum llc_status llc_embeddings_layer_inp(struct llama_context * ctx, int32_t layer, float ** rows) {
    *rows = nullptr;
    return guarded([&] {
        *rows = llama_get_embeddings_layer_inp(ctx, static_cast<uint32_t>(layer));
        return *rows != nullptr ? LLC_OK : LLC_NO_OUTPUT;
    });
}

enum llc_status llc_sampled(struct llama_context * ctx, int32_t i, struct llc_sampled * result) {
    *result = {LLAMA_TOKEN_NULL, 0, nullptr, nullptr, nullptr};
    return guarded([&] {
        result->token      = llama_get_sampled_token_ith(ctx, i);
        result->candidates = llama_get_sampled_candidates_ith(ctx, i);
        result->logits     = llama_get_sampled_logits_ith(ctx, i);
        result->probs      = llama_get_sampled_probs_ith(ctx, i);
        result->n = result->candidates != nullptr ? llama_get_sampled_candidates_count_ith(ctx, i)
                  : result->logits     != nullptr ? llama_get_sampled_logits_count_ith(ctx, i)
                  : result->probs      != nullptr ? llama_get_sampled_probs_count_ith(ctx, i) : 0;
        const bool found = result->token != LLAMA_TOKEN_NULL || result->n > 0;
        return found ? LLC_OK : LLC_NO_OUTPUT;
    });
}
