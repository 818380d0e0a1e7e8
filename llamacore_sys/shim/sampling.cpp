#include "guard.h"
#include "likeliest.h"
#include "pool_work.h"
#include "synthetic.h"
#include "watch.h"

#include <algorithm>
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

// The candidates of some rows: each thread looks through a part of the vocabulary, in all of them. What the parts have
// together may be more than n_first tokens, and is never less than the n_first most likely ones.
struct search {
    int32_t                                            n_vocab = 0;
    std::vector<const float *>                         logits;
    std::vector<size_t>                                n_first;
    std::vector<std::vector<std::vector<llama_token_data>>> found; // of each row, of each part

    void add(const float * row, size_t wanted, int32_t n_parts) {
        logits.push_back(row);
        n_first.push_back(std::min(wanted, static_cast<size_t>(n_vocab)));
        found.emplace_back(n_parts);
        for (auto & part : found.back()) {
            part.reserve(n_first.back());
        }
    }

    static void run(void * data, int part, int n_parts) {
        auto & self = *static_cast<search *>(data);
        const auto edge = [&](int number) { return static_cast<int32_t>(int64_t(self.n_vocab) * number / n_parts); };
        for (size_t row = 0; row < self.logits.size(); ++row) {
            llc::likeliest(self.logits[row], edge(part), edge(part + 1), self.n_first[row], self.found[row][part]);
        }
    }

    std::vector<llama_token_data> candidates(size_t row) {
        std::vector<llama_token_data> all;
        for (const auto & part : found[row]) {
            all.insert(all.end(), part.begin(), part.end());
        }
        return all;
    }
};

// As sample_row, with the given tokens alone as candidates.
enum llc_status sample_from(
        struct llama_sampler * sampler, std::vector<llama_token_data> found, llama_token * token) {
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

constexpr int64_t worth_threads = 1 << 16; // logits; fewer are looked through while threads would be told to

// Every row with its own sampler, up to the first failure.
enum llc_status sample_rows(
        struct llama_context * ctx, struct ggml_threadpool * pool, int32_t n_threads, size_t n,
        struct llama_sampler ** samplers, const int32_t * rows, const int32_t * n_first, llama_token * tokens,
        size_t * n_done) {
    search wanted;
    wanted.n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(ctx)));
    if (int64_t(wanted.n_vocab) * int64_t(n) < worth_threads) {
        n_threads = 1;
    }
    std::vector<int32_t> place(n, -1); // in the search
    for (size_t k = 0; k < n; ++k) {
        const float * logits = n_first[k] > 0 ? llama_get_logits_ith(ctx, rows[k]) : nullptr;
        if (logits != nullptr && llama_get_sampled_token_ith(ctx, rows[k]) == LLAMA_TOKEN_NULL &&
            llama_get_sampled_logits_ith(ctx, rows[k]) == nullptr) { // no sampler in the graph was here first
            place[k] = static_cast<int32_t>(wanted.logits.size());
            wanted.add(logits, n_first[k], n_threads);
        }
    }
    if (!wanted.logits.empty()) {
        llc::run_on_pool(pool, n_threads, search::run, &wanted);
    }
    enum llc_status result = LLC_OK;
    for (size_t k = 0; k < n && result == LLC_OK; ++k) {
        tokens[k] = LLAMA_TOKEN_NULL;
        const auto status = guarded([&] { // an exception is a failure of this row alone
            result = place[k] >= 0 ? sample_from(samplers[k], wanted.candidates(place[k]), &tokens[k])
                                   : sample_row(samplers[k], ctx, rows[k], &tokens[k]);
            return LLC_OK;
        });
        result = status == LLC_OK ? result : status;
        *n_done += result == LLC_OK;
    }
    return result;
}

// The next row of each group of llc_sample_drafts that goes on.
struct draft_round {
    std::vector<size_t>                 group;
    std::vector<struct llama_sampler *> samplers;
    std::vector<int32_t>                rows;
    std::vector<int32_t>                n_first;
    std::vector<llama_token>            tokens;

    explicit draft_round(size_t n) : tokens(n) {}

    bool gather(
            size_t n, struct llama_sampler ** all_samplers, const int32_t * all_rows, const int32_t * all_n_first,
            const int32_t * n_tokens, const bool * alive) {
        group.clear();
        samplers.clear();
        rows.clear();
        n_first.clear();
        for (size_t k = 0; k < n; ++k) {
            if (alive[k]) {
                group.push_back(k);
                samplers.push_back(all_samplers[k]);
                rows.push_back(all_rows[k] + n_tokens[k]);
                n_first.push_back(all_n_first[k]);
            }
        }
        return !group.empty();
    }
};

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
        struct llama_context * ctx, struct ggml_threadpool * pool, int32_t n_threads, size_t n,
        struct llama_sampler ** samplers, const int32_t * rows, const int32_t * n_first, llama_token * tokens,
        size_t * n_done) {
    *n_done = 0;
    enum llc_status result = LLC_OK;
    const auto status = guarded([&] {
        result = sample_rows(ctx, pool, n_threads, n, samplers, rows, n_first, tokens, n_done);
        return LLC_OK;
    });
    return status == LLC_OK ? result : status;
}

enum llc_status llc_sample_drafts(
        struct llama_context * ctx, struct ggml_threadpool * pool, int32_t n_threads, size_t n,
        struct llama_sampler ** samplers, const int32_t * rows, const int32_t * n_first, const llama_token * drafts,
        size_t stride, const int32_t * n_draft, struct llc_spec * synthetic, llama_token * tokens, int32_t * n_tokens,
        bool * alive, size_t * failed) {
    *failed = n;
    enum llc_status result = LLC_OK;
    const auto status = guarded([&] {
        const auto * vocab = llama_model_get_vocab(llama_get_model(ctx));
        draft_round round(n);
        while (result == LLC_OK && round.gather(n, samplers, rows, n_first, n_tokens, alive)) {
            size_t n_done = 0;
            // rejected rows are never looked at: a round takes one row of each group that goes on
            result = sample_rows(
                ctx, pool, n_threads, round.group.size(), round.samplers.data(), round.rows.data(),
                round.n_first.data(), round.tokens.data(), &n_done);
            for (size_t k = 0; k < n_done; ++k) {
                const size_t        group = round.group[k];
                const int32_t       place = n_tokens[group]++;
                llama_token &       token = tokens[group * (stride + 1) + place];
                const llama_token * draft = place < n_draft[group] ? drafts + group * stride + place : nullptr;
                token = round.tokens[k];
                if (draft != nullptr && synthetic != nullptr && llc::spec_takes(*synthetic, place) &&
                    !llama_vocab_is_eog(vocab, *draft)) {
                    token = *draft;
                } else {
                    alive[group] = draft != nullptr && synthetic == nullptr && token == *draft;
                }
            }
            if (result != LLC_OK) {
                *failed        = round.group[n_done];
                alive[*failed] = false;
            }
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
        llc::require_unwatched(ctx, "samplers", true);
        *on_backend = llama_set_sampler(ctx, seq, chain);
        return LLC_OK;
    });
}
