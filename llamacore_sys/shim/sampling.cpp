#include "guard.h"

using llc::guarded;

namespace {

// llama_sampler_sample asserts both on a row without logits and on a chain that selects nothing
enum llc_status sample_row(struct llama_sampler * sampler, struct llama_context * ctx, int32_t row, llama_token * token) {
    if (llama_get_sampled_token_ith(ctx, row) == LLAMA_TOKEN_NULL && llama_get_logits_ith(ctx, row) == nullptr) {
        return llc::fail(LLC_NO_OUTPUT, "the row has no logits");
    }
    try {
        *token = llama_sampler_sample(sampler, ctx, row);
        return LLC_OK;
    } catch (const llc::ggml_aborted & e) {
        return llc::fail(LLC_NO_TOKEN, e.what()); // neither the context nor the sampler has changed
    }
}

} // namespace

enum llc_status llc_sample(struct llama_sampler * sampler, struct llama_context * ctx, int32_t i, llama_token * token) {
    *token = LLAMA_TOKEN_NULL;
    enum llc_status result = LLC_OK;
    const auto status = guarded([&] {
        result = sample_row(sampler, ctx, i, token);
        return LLC_OK;
    });
    return status == LLC_OK ? result : status;
}

enum llc_status llc_sample_batch(
        struct llama_context * ctx, size_t n, struct llama_sampler ** samplers, const int32_t * rows,
        llama_token * tokens, size_t * n_done) {
    *n_done = 0;
    enum llc_status result = LLC_OK;
    const auto status = guarded([&] {
        for (size_t k = 0; k < n && result == LLC_OK; ++k) {
            tokens[k] = LLAMA_TOKEN_NULL;
            result = sample_row(samplers[k], ctx, rows[k], &tokens[k]);
            *n_done += result == LLC_OK;
        }
        return LLC_OK;
    });
    return status == LLC_OK ? result : status;
}

enum llc_status llc_sampler_apply(struct llama_sampler * sampler, llama_token_data_array * candidates) {
    return guarded([&] {
        if (candidates->size == 0) {
            throw llc::invalid_argument("there are no candidates");
        }
        llama_sampler_apply(sampler, candidates);
        return LLC_OK;
    });
}

enum llc_status llc_sampler_accept(struct llama_sampler * sampler, llama_token token) {
    return guarded([&] {
        llama_sampler_accept(sampler, token);
        return LLC_OK;
    });
}

enum llc_status llc_sampler_reset(struct llama_sampler * sampler) {
    return guarded([&] {
        llama_sampler_reset(sampler);
        return LLC_OK;
    });
}

enum llc_status llc_sampler_clone(const struct llama_sampler * sampler, struct llama_sampler ** clone) {
    *clone = nullptr;
    return guarded([&] {
        *clone = llama_sampler_clone(sampler);
        return *clone != nullptr ? LLC_OK : LLC_FAILED;
    });
}

enum llc_status llc_set_sampler(struct llama_context * ctx, llama_seq_id seq, struct llama_sampler * chain, bool * on_backend) {
    *on_backend = false;
    return guarded([&] {
        *on_backend = llama_set_sampler(ctx, seq, chain);
        return LLC_OK;
    });
}
