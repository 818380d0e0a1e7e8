// A sampler that forbids the tokens that end a text until enough tokens were accepted.
#include "guard.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

using llc::guarded;

namespace {

struct min_tokens {
    int32_t                  wanted;
    int32_t                  accepted;
    std::vector<llama_token> ends; // sorted
};

min_tokens * of(const struct llama_sampler * sampler) {
    return static_cast<min_tokens *>(sampler->ctx);
}

struct llama_sampler * make(const min_tokens & from);

struct llama_sampler_i iface = {
    /* .name   = */ [](const struct llama_sampler *) { return "min-tokens"; },
    /* .accept = */ [](struct llama_sampler * sampler, llama_token) {
        auto & self = *of(sampler);
        self.accepted += self.accepted < self.wanted;
    },
    /* .apply  = */ [](struct llama_sampler * sampler, llama_token_data_array * candidates) {
        const auto & self = *of(sampler);
        if (self.accepted >= self.wanted) {
            return;
        }
        for (size_t i = 0; i < candidates->size; ++i) {
            if (std::binary_search(self.ends.begin(), self.ends.end(), candidates->data[i].id)) {
                candidates->data[i].logit = -INFINITY;
            }
        }
    },
    /* .reset  = */ [](struct llama_sampler * sampler) { of(sampler)->accepted = 0; },
    /* .clone  = */ [](const struct llama_sampler * sampler) { return make(*of(sampler)); },
    /* .free   = */ [](struct llama_sampler * sampler) { delete of(sampler); },
    nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
};

struct llama_sampler * make(const min_tokens & from) {
    auto self = std::make_unique<min_tokens>(from);
    auto * sampler = llama_sampler_init(&iface, self.get());
    self.release();
    return sampler;
}

} // namespace

enum llc_status llc_sampler_min_tokens(
        int32_t wanted, const llama_token * ends, size_t n_ends, struct llama_sampler ** sampler) {
    *sampler = nullptr;
    return guarded([&] {
        min_tokens self = {wanted, 0, std::vector<llama_token>(ends, ends + n_ends)};
        std::sort(self.ends.begin(), self.ends.end());
        *sampler = make(self);
        return LLC_OK;
    });
}
