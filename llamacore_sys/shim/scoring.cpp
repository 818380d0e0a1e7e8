// Log-probabilities of many rows in one call: a softmax over the vocabulary for each, which is too much for Python.
#include "guard.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

using llc::guarded;

namespace {

// Values handled side by side in loops without dependencies, which the compiler turns into vector instructions.
constexpr int32_t BLOCK = 256;

constexpr float LOWEST = -87.0f; // e^x of less is not a normal number

// e^x for LOWEST <= x <= 0, within 2 units in the last place; without a branch, so that a loop of it can be vectorised
inline float exp_of_negative(float x) {
    constexpr float ROUND = 12582912.0f; // 1.5 * 2^23: adding it rounds to a whole number, which is in the low bits
    const float shifted = x * 1.44269504f + ROUND;
    const float n       = shifted - ROUND;
    const float r       = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits, power;
    std::memcpy(&bits, &p, sizeof bits);
    std::memcpy(&power, &shifted, sizeof power);
    bits += power << 23; // the bits of ROUND above the whole number are shifted out
    std::memcpy(&p, &bits, sizeof p);
    return p;
}

// the highest value; NaN when there is one among them
float highest_of(const float * values, int32_t n) {
    float   highest[BLOCK];
    int32_t bad[BLOCK] = {0};
    std::fill(highest, highest + BLOCK, values[0]);
    int32_t i = 0;
    for (; i + BLOCK <= n; i += BLOCK) {
        for (int32_t k = 0; k < BLOCK; ++k) {
            const float value = values[i + k];
            highest[k] = value > highest[k] ? value : highest[k];
            bad[k] |= value != value;
        }
    }
    for (int32_t k = 0; i < n; ++i, ++k) {
        highest[k] = values[i] > highest[k] ? values[i] : highest[k];
        bad[k] |= values[i] != values[i];
    }
    return *std::max_element(bad, bad + BLOCK) != 0 ? NAN : *std::max_element(highest, highest + BLOCK);
}

// log of the sum of e^value; NaN when there is none
float log_sum_exp(const float * values, int32_t n) {
    const float highest = highest_of(values, n);
    if (!std::isfinite(highest)) {
        return NAN;
    }
    double  sum = 0.0;
    int32_t i   = 0;
    for (; i + BLOCK <= n; i += BLOCK) {
        float terms[BLOCK];
        for (int32_t k = 0; k < BLOCK; ++k) {
            const float below = values[i + k] - highest;
            terms[k] = below > LOWEST ? below : LOWEST;
        }
        for (int32_t k = 0; k < BLOCK; ++k) {
            terms[k] = exp_of_negative(terms[k]);
        }
        for (int32_t half = BLOCK / 2; half > 0; half /= 2) {
            for (int32_t k = 0; k < half; ++k) {
                terms[k] += terms[k + half];
            }
        }
        sum += terms[0];
    }
    for (; i < n; ++i) {
        sum += exp_of_negative(std::max(values[i] - highest, LOWEST));
    }
    return highest + static_cast<float>(std::log(sum));
}

struct job {
    const float * logits;
    llama_token   target;
    float *       logprob;
    llama_token * top_tokens;
    float *       top_logprobs;
};

// the n_top best by a heap of that size: the vocabulary is read once and most values lose against the worst kept one
void best_of(const float * logits, int32_t n_vocab, int32_t n_top, float log_sum, const job & to) {
    const auto better = [&](llama_token a, llama_token b) {
        return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
    };
    llama_token * kept = to.top_tokens;
    for (llama_token t = 0; t < n_top; ++t) {
        kept[t] = t;
    }
    std::make_heap(kept, kept + n_top, better);
    for (llama_token t = n_top; t < n_vocab; ++t) {
        if (logits[t] > logits[kept[0]]) {
            std::pop_heap(kept, kept + n_top, better);
            kept[n_top - 1] = t;
            std::push_heap(kept, kept + n_top, better);
        }
    }
    std::sort_heap(kept, kept + n_top, better);
    for (int32_t k = 0; k < n_top; ++k) {
        to.top_logprobs[k] = logits[kept[k]] - log_sum;
    }
}

} // namespace

enum llc_status llc_score(
        struct llama_context * ctx, size_t n, const int32_t * rows, const llama_token * targets, int32_t n_threads,
        float * logprobs, int32_t n_top, llama_token * top_tokens, float * top_logprobs) {
    return guarded([&] {
        const int32_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(ctx)));
        if (n_top < 0 || n_top > n_vocab) {
            throw llc::invalid_argument("n_top is " + std::to_string(n_top) + ", not 0 to " + std::to_string(n_vocab));
        }
        std::vector<job> jobs(n);
        for (size_t i = 0; i < n; ++i) {
            if (targets[i] < 0 || targets[i] >= n_vocab) {
                throw llc::invalid_argument("token " + std::to_string(targets[i]) + " is not in the vocabulary");
            }
            const float * logits = llama_get_logits_ith(ctx, rows[i]); // reorders on the first call: not from a thread
            if (logits == nullptr) {
                return llc::fail(LLC_NO_OUTPUT, ("row " + std::to_string(rows[i]) + " has no logits").c_str());
            }
            jobs[i] = {logits, targets[i], logprobs + i, top_tokens + i * n_top, top_logprobs + i * n_top};
        }
        const auto work = [&](size_t first, size_t step) {
            for (size_t i = first; i < n; i += step) {
                const job & to      = jobs[i];
                const float log_sum = log_sum_exp(to.logits, n_vocab);
                *to.logprob = to.logits[to.target] - log_sum;
                if (n_top > 0) {
                    best_of(to.logits, n_vocab, n_top, log_sum, to);
                }
            }
        };
        const size_t n_workers = std::min<size_t>(std::max(n_threads, 1), n);
        std::vector<std::thread> others;
        try {
            for (size_t k = 1; k < n_workers; ++k) {
                others.emplace_back(work, k, n_workers);
            }
        } catch (const std::system_error &) {
            // no more threads to be had: their share is done here
        }
        for (size_t k = 1 + others.size(); k < n_workers; ++k) {
            work(k, n_workers);
        }
        if (n > 0) {
            work(0, n_workers);
        }
        for (auto & thread : others) {
            thread.join();
        }
        return LLC_OK;
    });
}
