#include "reasoning.h"

#include "guard.h"

#include <algorithm>
#include <climits>
#include <memory>

using llc::guarded;

namespace {

struct sampler_deleter {
    void operator()(struct llama_sampler * sampler) const { llama_sampler_free(sampler); }
};
using sampler_ptr = std::unique_ptr<struct llama_sampler, sampler_deleter>;

struct budget {
    sampler_ptr now;   // upstream's sampler
    sampler_ptr start; // as it was at first
};

budget * of(const struct llama_sampler * sampler) {
    return static_cast<budget *>(sampler->ctx);
}

struct llama_sampler * make(sampler_ptr now, sampler_ptr start);

struct llama_sampler_i iface = {
    /* .name   = */ [](const struct llama_sampler *) { return "reasoning-budget"; },
    /* .accept = */ [](struct llama_sampler * sampler, llama_token token) {
        llama_sampler_accept(of(sampler)->now.get(), token);
    },
    /* .apply  = */ [](struct llama_sampler * sampler, llama_token_data_array * candidates) {
        llama_sampler_apply(of(sampler)->now.get(), candidates);
    },
    /* .reset  = */ [](struct llama_sampler * sampler) {
        llama_sampler_copy(of(sampler)->start.get(), of(sampler)->now.get()); // upstream's own forgets where it began
    },
    /* .clone  = */ [](const struct llama_sampler * sampler) {
        return make(sampler_ptr(llama_sampler_clone(of(sampler)->now.get())),
                    sampler_ptr(llama_sampler_clone(of(sampler)->start.get())));
    },
    /* .free   = */ [](struct llama_sampler * sampler) { delete of(sampler); },
    nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
};

struct llama_sampler * make(sampler_ptr now, sampler_ptr start) {
    auto self = std::make_unique<budget>();
    self->now   = std::move(now);
    self->start = std::move(start);
    auto * sampler = llama_sampler_init(&iface, self.get());
    self.release();
    return sampler;
}

} // namespace

const struct llama_sampler * llc::reasoning_budget_of(const struct llama_sampler * sampler) {
    return sampler != nullptr && sampler->iface == &iface ? of(sampler)->now.get() : nullptr;
}

enum llc_status llc_sampler_reasoning_budget(
        const struct llama_vocab * vocab, const llama_token * start, size_t n_start, const llama_token * ends,
        const size_t * end_lengths, size_t n_ends, const llama_token * forced, size_t n_forced, int32_t n_tokens,
        const llama_token * opening, size_t n_opening, struct llama_sampler ** sampler) {
    *sampler = nullptr;
    return guarded([&] {
        const std::vector<llama_tokens> starts{llama_tokens(start, start + n_start)};
        std::vector<llama_tokens>       end_sequences;
        for (size_t i = 0; i < n_ends; ++i) {
            end_sequences.emplace_back(ends, ends + end_lengths[i]);
            ends += end_lengths[i];
        }
        const llama_tokens closing(forced, forced + n_forced);
        // what the prompt has of the reply may have opened a thought; tokens in the prompt are not charged
        const sampler_ptr probe(common_reasoning_budget_init(vocab, starts, end_sequences, closing, INT_MAX));
        for (size_t i = 0; i < n_opening; ++i) {
            llama_sampler_accept(probe.get(), opening[i]);
        }
        const auto  state = common_reasoning_budget_get_state(probe.get());
        sampler_ptr now(common_reasoning_budget_init(vocab, starts, end_sequences, closing,
                                                     n_tokens < 0 ? INT_MAX : n_tokens, state));
        sampler_ptr first(llama_sampler_clone(now.get()));
        *sampler = make(std::move(now), std::move(first));
        return LLC_OK;
    });
}

int32_t llc_sampler_reasoning_state(const struct llama_sampler * sampler) {
    const auto * budget = llc::reasoning_budget_of(sampler);
    return budget == nullptr ? -1 : static_cast<int32_t>(common_reasoning_budget_get_state(budget));
}
