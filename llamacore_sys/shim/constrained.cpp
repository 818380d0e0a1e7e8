// A grammar and a chain as one sampler, sampled as upstream's common_sampler_sample does: the chain alone first, and
// only when its token does not fit, once more with the grammar in front. The grammar sees one token instead of the whole
// vocabulary in nearly every step. While a thought goes on, a grammar that waits for it sees nothing.
#include "guard.h"
#include "reasoning.h"

#include <cmath>
#include <memory>
#include <vector>

using llc::guarded;

namespace {

struct sampler_deleter {
    void operator()(struct llama_sampler * sampler) const { llama_sampler_free(sampler); }
};
using sampler_ptr = std::unique_ptr<struct llama_sampler, sampler_deleter>;

struct constrained_options {
    std::vector<llama_token> opening;                     // what the prompt has of what the grammar describes
    bool                     waits  = false;              // for the end of a thought
    bool                     replay = false;              // the end of a thought may itself trigger the grammar
    llama_token              start  = LLAMA_TOKEN_NULL;   // may come before everything: it opens a thought
};

struct constrained {
    sampler_ptr                   grammar;
    sampler_ptr                   chain;
    constrained_options           options;
    bool                          untouched = true; // no token was generated yet
    std::vector<llama_token_data> saved;

    // the reasoning budget, which is the first member of the chain where there is one
    const struct llama_sampler * budget() const {
        return llama_sampler_chain_n(chain.get()) > 0
                   ? llc::reasoning_budget_of(llama_sampler_chain_get(chain.get(), 0))
                   : nullptr;
    }

    bool thinks() const {
        const auto * found = options.waits ? budget() : nullptr;
        const auto   state = common_reasoning_budget_get_state(found);
        return found != nullptr && state != REASONING_BUDGET_IDLE && state != REASONING_BUDGET_DONE;
    }

    bool applies_to(llama_token token) const {
        return !thinks() && !(untouched && token == options.start && token != LLAMA_TOKEN_NULL);
    }

    void begin() {
        untouched = true;
        for (const auto token : options.opening) {
            llama_sampler_accept(grammar.get(), token);
        }
    }
};

constrained * of(const struct llama_sampler * sampler) {
    return static_cast<constrained *>(sampler->ctx);
}

struct llama_sampler * make(std::unique_ptr<constrained> self);

struct llama_sampler_i iface = {
    /* .name   = */ [](const struct llama_sampler *) { return "constrained"; },
    /* .accept = */ [](struct llama_sampler * sampler, llama_token token) {
        auto & self    = *of(sampler);
        const bool now = self.applies_to(token);
        if (now) {
            llama_sampler_accept(self.grammar.get(), token); // first: it is the one that may refuse
        }
        llama_sampler_accept(self.chain.get(), token);
        self.untouched = false;
        if (!now && self.options.replay && !self.thinks()) {
            if (const auto * end = common_reasoning_budget_get_end_match(self.budget())) {
                for (const auto end_token : *end) {
                    llama_sampler_accept(self.grammar.get(), end_token);
                }
            }
        }
    },
    /* .apply  = */ [](struct llama_sampler * sampler, llama_token_data_array * candidates) {
        auto & self = *of(sampler);
        const llama_token_data_array before = *candidates; // samplers may move the start and the end
        const bool thinks = self.thinks();
        if (!thinks) {
            self.saved.assign(before.data, before.data + before.size);
        }
        llama_sampler_apply(self.chain.get(), candidates);
        if (thinks || candidates->selected < 0 || static_cast<size_t>(candidates->selected) >= candidates->size) {
            return; // when nothing was chosen the caller reports it
        }
        llama_token_data       chosen = {candidates->data[candidates->selected].id, 1.0f, 0.0f};
        llama_token_data_array single = {&chosen, 1, -1, false};
        if (!self.applies_to(chosen.id)) {
            return;
        }
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
        of(sampler)->begin();
    },
    /* .clone  = */ [](const struct llama_sampler * sampler) {
        const auto & self = *of(sampler);
        auto copy         = std::make_unique<constrained>();
        copy->grammar     = sampler_ptr(llama_sampler_clone(self.grammar.get()));
        copy->chain       = sampler_ptr(llama_sampler_clone(self.chain.get()));
        copy->options     = self.options;
        copy->untouched   = self.untouched;
        return make(std::move(copy));
    },
    /* .free   = */ [](struct llama_sampler * sampler) { delete of(sampler); },
    nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
};

struct llama_sampler * make(std::unique_ptr<constrained> self) {
    auto * sampler = llama_sampler_init(&iface, self.get());
    self.release();
    return sampler;
}

} // namespace

enum llc_status llc_sampler_constrained(
        struct llama_sampler * grammar, struct llama_sampler * chain, const llama_token * opening, size_t n_opening,
        bool waits, bool replay, llama_token start, struct llama_sampler ** sampler) {
    *sampler = nullptr;
    return guarded([&] {
        auto made     = std::make_unique<constrained>();
        made->options = {std::vector<llama_token>(opening, opening + n_opening), waits, replay, start};
        made->grammar = sampler_ptr(grammar);
        try {
            made->begin();
        } catch (...) {
            made->grammar.release(); // it stays the caller's
            throw;
        }
        made->chain = sampler_ptr(chain);
        *sampler    = make(std::move(made));
        return LLC_OK;
    });
}

struct llama_sampler * llc_sampler_constrained_get(const struct llama_sampler * sampler, int32_t i) {
    return i == 0 ? of(sampler)->grammar.get() : of(sampler)->chain.get();
}
