#include "guard.h"

#include <algorithm>
#include <cmath>
#include <vector>

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

// The n_first most likely tokens of a row, in the order of their ids. Nearly every block of logits is passed over after
// one comparison, so that a large vocabulary costs little more than reading it once.
void likeliest(const float * logits, int32_t n_vocab, size_t n_first, std::vector<llama_token_data> & found) {
    constexpr int32_t block = 64;
    const auto less_likely = [](const llama_token_data & a, const llama_token_data & b) { return a.logit > b.logit; };
    found.clear();
    float least = -INFINITY;
    for (int32_t start = 0; start < n_vocab; start += block) {
        const int32_t end = std::min(start + block, n_vocab);
        if (found.size() == n_first) {
            bool any = false;
            for (int32_t t = start; t < end; ++t) {
                any |= logits[t] > least;
            }
            if (!any) {
                continue;
            }
        }
        for (int32_t t = start; t < end; ++t) {
            if (found.size() < n_first) {
                if (!std::isnan(logits[t])) {
                    found.push_back({t, logits[t], 0.0f});
                    std::push_heap(found.begin(), found.end(), less_likely);
                }
            } else if (logits[t] > least) {
                std::pop_heap(found.begin(), found.end(), less_likely);
                found.back() = {t, logits[t], 0.0f};
                std::push_heap(found.begin(), found.end(), less_likely);
            }
            if (found.size() == n_first) {
                least = found.front().logit;
            }
        }
    }
    std::sort(found.begin(), found.end(), [](const auto & a, const auto & b) { return a.id < b.id; });
}

// As sample_row, with the most likely tokens alone as candidates.
enum llc_status sample_likeliest(
        struct llama_sampler * sampler, struct llama_context * ctx, int32_t row, size_t n_first,
        std::vector<llama_token_data> & found, llama_token * token) {
    const float * logits = llama_get_logits_ith(ctx, row);
    if (logits == nullptr || llama_get_sampled_token_ith(ctx, row) != LLAMA_TOKEN_NULL ||
        llama_get_sampled_logits_ith(ctx, row) != nullptr) {
        return sample_row(sampler, ctx, row, token); // a sampler in the graph was here first
    }
    const int32_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(ctx)));
    likeliest(logits, n_vocab, std::min(n_first, static_cast<size_t>(n_vocab)), found);
    llama_token_data_array candidates = {found.data(), found.size(), -1, false};
    if (candidates.size > 0) {
        llama_sampler_apply(sampler, &candidates);
    }
    if (candidates.selected < 0 || static_cast<size_t>(candidates.selected) >= candidates.size) {
        return llc::fail(LLC_NO_TOKEN, "no token was selected");
    }
    *token = candidates.data[candidates.selected].id;
    llama_sampler_accept(sampler, *token);
    return LLC_OK;
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
        const int32_t * n_first, llama_token * tokens, size_t * n_done) {
    *n_done = 0;
    std::vector<llama_token_data> found;
    enum llc_status result = LLC_OK;
    const auto status = guarded([&] {
        for (size_t k = 0; k < n && result == LLC_OK; ++k) {
            tokens[k] = LLAMA_TOKEN_NULL;
            result = n_first[k] > 0 ? sample_likeliest(samplers[k], ctx, rows[k], n_first[k], found, &tokens[k])
                                    : sample_row(samplers[k], ctx, rows[k], &tokens[k]);
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
