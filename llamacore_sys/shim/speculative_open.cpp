// Opening a speculation session and closing it.
#include "llama-context.h"
#include "llama-ext.h"
#include "mtp.h"
#include "speculation.h"

#include <algorithm>

using llc::guarded;
using llc::require;

namespace {

struct common_params_speculative upstream_params(const struct llc_spec_config & config, const llc::spec_types & types) {
    struct common_params_speculative params;
    params.types                   = types.all;
    params.synth_len               = config.synth_length;
    params.draft.n_max             = config.n_max;
    params.draft.n_min             = config.n_min;
    params.draft.p_min             = config.p_min;
    params.draft.backend_sampling  = config.backend_sampling;
    params.draft.ctx_tgt           = config.ctx_tgt;
    params.draft.ctx_dft           = config.ctx_dft;
    params.ngram_mod.n_match       = config.ngram_mod_n_match;
    params.ngram_mod.n_min         = config.ngram_mod_n_min;
    params.ngram_mod.n_max         = config.ngram_mod_n_max;
    params.ngram_simple.size_n     = static_cast<uint16_t>(config.ngram_size_n);
    params.ngram_simple.size_m     = static_cast<uint16_t>(config.ngram_size_m);
    params.ngram_simple.min_hits   = static_cast<uint16_t>(config.ngram_min_hits);
    params.ngram_map_k             = params.ngram_simple;
    params.ngram_map_k4v           = params.ngram_simple;
    if (config.n_synth_rates > 0) {
        params.synth_rates.assign(config.synth_rates, config.synth_rates + config.n_synth_rates);
    }
    if (config.lookup_cache_static != nullptr) {
        params.ngram_cache.lookup_cache_static = config.lookup_cache_static;
    }
    if (config.lookup_cache_dynamic != nullptr) {
        params.ngram_cache.lookup_cache_dynamic = config.lookup_cache_dynamic;
    }
    return params;
}

} // namespace

llc_spec::~llc_spec() {
    using lock = std::unique_lock<std::mutex>; // a decode of another thread is waited for
    const auto tgt_lock = on_tgt != nullptr ? lock(on_tgt->computing) : lock();
    const auto dft_lock = on_dft != nullptr ? lock(on_dft->computing) : lock();
    upstream.reset();
    if (on_tgt != nullptr) {
        llama_set_embeddings_nextn(tgt, nextn, nextn_masked);
        for (size_t layer = 0; layer < layer_inputs.size(); ++layer) {
            if (!layer_inputs[layer] && tgt->get_cparams().embeddings_layer_inp[layer]) {
                llama_set_embeddings_layer_inp(tgt, static_cast<uint32_t>(layer), false);
            }
        }
        llc::unwatch(tgt);
    }
    if (on_dft != nullptr) {
        llc::unwatch(dft);
    }
}

struct llc_spec_config llc_spec_default_config(void) {
    const struct common_params_speculative defaults;
    struct llc_spec_config config = {};
    config.n_seq             = 1;
    config.n_max             = defaults.draft.n_max;
    config.n_min             = defaults.draft.n_min;
    config.p_min             = defaults.draft.p_min;
    config.backend_sampling  = defaults.draft.backend_sampling;
    config.ngram_size_n      = defaults.ngram_simple.size_n;
    config.ngram_size_m      = defaults.ngram_simple.size_m;
    config.ngram_min_hits    = defaults.ngram_simple.min_hits;
    config.ngram_mod_n_match = defaults.ngram_mod.n_match;
    config.ngram_mod_n_min   = defaults.ngram_mod.n_min;
    config.ngram_mod_n_max   = defaults.ngram_mod.n_max;
    config.synth_length      = defaults.synth_len;
    config.synth_seed        = std::mt19937::default_seed;
    return config;
}

enum llc_status llc_spec_new(const struct llc_spec_config * config, struct llc_spec ** spec) {
    *spec = nullptr;
    return guarded([&] {
        auto made   = std::make_unique<struct llc_spec>();
        made->types = llc::spec_types_of(*config);
        require(config->ctx_tgt != nullptr, "there is no target context");
        made->tgt          = config->ctx_tgt;
        made->dft          = config->ctx_dft;
        made->trims        = config->trims;
        made->nextn        = made->tgt->get_cparams().embeddings_nextn;
        made->nextn_masked = made->tgt->get_cparams().embeddings_nextn_masked;
        made->layer_inputs = made->tgt->get_cparams().embeddings_layer_inp;
        llc::check_spec_contexts(*config, made->types);
        made->on_tgt = llc::watch(made->tgt, false);
        if (made->dft != nullptr) {
            made->on_dft = llc::watch(made->dft, true);
            made->reads_nextn = llc::enable_layer_inputs(made->tgt, llama_get_model(made->dft), made->types);
        }
        auto params = upstream_params(*config, made->types);
        try {
            made->upstream.reset(common_speculative_init(params, config->n_seq));
        } catch (const std::invalid_argument & e) {
            throw llc::invalid_argument(e.what());
        }
        require(made->upstream != nullptr, "there is nothing to draft with");

        const auto * target = llama_get_model(made->tgt);
        made->n_max   = std::max(common_speculative_n_max(made->upstream.get()), 0);
        made->n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(target));
        if (llama_model_is_recurrent(target) || llama_model_is_hybrid(target)) {
            made->n_max = std::min<int32_t>(made->n_max, llama_n_rs_seq(made->tgt));
        }
        if (made->dft != nullptr) {
            const auto * draft = llama_get_model(made->dft);
            const auto   rope  = llama_model_rope_type(draft);
            made->n_vocab  = std::min(made->n_vocab, llama_vocab_n_tokens(llama_model_get_vocab(draft)));
            made->may_jump = rope == LLAMA_ROPE_TYPE_MROPE || rope == LLAMA_ROPE_TYPE_IMROPE;
            // EAGLE-3 is one position behind and trims its memory itself; shared memory is trimmed with the target's
            made->in_step  = !made->types.has(COMMON_SPECULATIVE_TYPE_DRAFT_EAGLE3) &&
                             llama_get_ctx_other(made->dft) != made->tgt;
        }
        if (made->types.all == std::vector{COMMON_SPECULATIVE_TYPE_DRAFT_MTP} &&
            llc::mtp_drafter::drives(made->tgt, made->dft)) {
            made->mtp = std::make_unique<llc::mtp_drafter>(*config, made->n_max);
        }
        made->sequences.resize(config->n_seq);
        made->synth_rng.seed(config->synth_seed);
        made->drafted.resize(made->n_max);
        made->accepted.resize(made->drafted.size());
        *spec = made.release();
        return LLC_OK;
    });
}

void llc_spec_free(struct llc_spec * spec) {
    guarded([&] {
        delete spec;
        return LLC_OK;
    });
}
