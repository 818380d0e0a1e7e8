// A grammar and a chain as one sampler, sampled as upstream's common_sampler_sample does: the chain alone first, and
// only when its token does not fit, once more with the grammar in front. The grammar sees one token instead of the whole
// vocabulary in nearly every step.
#include "guard.h"

#include <cmath>
#include <memory>
#include <vector>

using llc::guarded;

namespace {

struct sampler_deleter {
    void operator()(struct llama_sampler * sampler) const { llama_sampler_free(sampler); }
};
using sampler_ptr = std::unique_ptr<struct llama_sampler, sampler_deleter>;

struct constrained {
    sampler_ptr                   grammar;
    sampler_ptr                   chain;
    std::vector<llama_token_data> saved;
};

constrained * of(const struct llama_sampler * sampler) {
    return static_cast<constrained *>(sampler->ctx);
}

struct llama_sampler * make(sampler_ptr grammar, sampler_ptr chain);

struct llama_sampler_i iface = {
    /* .name   = */ [](const struct llama_sampler *) { return "constrained"; },
    /* .accept = */ [](struct llama_sampler * sampler, llama_token token) {
        llama_sampler_accept(of(sampler)->grammar.get(), token); // first: it is the one that may refuse
        llama_sampler_accept(of(sampler)->chain.get(), token);
    },
    /* .apply  = */ [](struct llama_sampler * sampler, llama_token_data_array * candidates) {
        auto & self = *of(sampler);
        const llama_token_data_array before = *candidates; // samplers may move the start and the end
        self.saved.assign(before.data, before.data + before.size);
        llama_sampler_apply(self.chain.get(), candidates);
        if (candidates->selected < 0 || static_cast<size_t>(candidates->selected) >= candidates->size) {
            return; // the caller reports that nothing was chosen
        }
        llama_token_data       chosen = {candidates->data[candidates->selected].id, 1.0f, 0.0f};
        llama_token_data_array single = {&chosen, 1, -1, false};
        llama_sampler_apply(self.grammar.get(), &single);
        if (chosen.logit != -INFINITY) {
            return;
        }
        *candidates = before;
        std::copy(self.saved.begin(), self.saved.end(), candidates->data);
        llama_sampler_apply(self.grammar.get(), candidates);
        llama_sampler_apply(self.chain.get(), candidates);
    },
    /* .reset  = */ [](struct llama_sampler * sampler) {
        llama_sampler_reset(of(sampler)->grammar.get());
        llama_sampler_reset(of(sampler)->chain.get());
    },
    /* .clone  = */ [](const struct llama_sampler * sampler) {
        return make(sampler_ptr(llama_sampler_clone(of(sampler)->grammar.get())),
                    sampler_ptr(llama_sampler_clone(of(sampler)->chain.get())));
    },
    /* .free   = */ [](struct llama_sampler * sampler) { delete of(sampler); },
    nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
};

struct llama_sampler * make(sampler_ptr grammar, sampler_ptr chain) {
    auto self = std::make_unique<constrained>();
    self->grammar = std::move(grammar);
    self->chain   = std::move(chain);
    auto * sampler = llama_sampler_init(&iface, self.get());
    self.release();
    return sampler;
}

} // namespace

enum llc_status llc_sampler_constrained(
        struct llama_sampler * grammar, struct llama_sampler * chain, struct llama_sampler ** sampler) {
    *sampler = nullptr;
    return guarded([&] {
        *sampler = make(sampler_ptr(grammar), sampler_ptr(chain));
        return LLC_OK;
    });
}

struct llama_sampler * llc_sampler_constrained_get(const struct llama_sampler * sampler, int32_t i) {
    return i == 0 ? of(sampler)->grammar.get() : of(sampler)->chain.get();
}
