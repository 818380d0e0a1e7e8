// What upstream's common_speculative takes for granted when it is made, and what can be told about models before.
#include "speculation.h"

#include "ggml-cpp.h"
#include "inner_values.h"
#include "llama-context.h"
#include "llama-ext.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

using llc::guarded;
using llc::require;

namespace {

constexpr int32_t MAX_DRAFT = 1024; // what upstream's tools take at most for n-grams

void require_range(const char * name, int32_t value, int32_t lowest, int32_t highest) {
    require(value >= lowest && value <= highest, std::string(name), " = ", value, " is not ", lowest, " to ", highest);
}

bool is_ngram(enum common_speculative_type type) {
    return type >= COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE && type <= COMMON_SPECULATIVE_TYPE_NGRAM_CACHE;
}

void check_numbers(const struct llc_spec_config & config, const llc::spec_types & types) {
    if (types.draft_context()) {
        require_range("n_max", config.n_max, 1, MAX_DRAFT);
        require_range("n_min", config.n_min, 0, config.n_max);
        require(config.p_min >= 0.0f && config.p_min <= 1.0f, "p_min is not 0 to 1");
    }
    require_range("ngram_size_n", config.ngram_size_n, 1, MAX_DRAFT);
    require_range("ngram_size_m", config.ngram_size_m, 1, MAX_DRAFT);
    require_range("ngram_min_hits", config.ngram_min_hits, 1, UINT16_MAX);
    require_range("ngram_mod_n_match", config.ngram_mod_n_match, 1, MAX_DRAFT);
    require_range("ngram_mod_n_max", config.ngram_mod_n_max, 1, MAX_DRAFT);
    require_range("ngram_mod_n_min", config.ngram_mod_n_min, 0, config.ngram_mod_n_max);
}

void check_target(const struct llc_spec_config & config, const llc::spec_types & types) {
    const auto & params = config.ctx_tgt->get_cparams();
    const auto * model  = llama_get_model(config.ctx_tgt);
    require(llama_get_memory(config.ctx_tgt) != nullptr && llama_model_has_decoder(model) &&
            !llama_model_has_encoder(model) && !llama_model_is_diffusion(model),
            "the target is no model that makes one token after the other");
    require(params.ctx_type == LLAMA_CONTEXT_TYPE_DEFAULT, "the target is a context of type MTP");
    require(config.n_seq > 0 && config.n_seq <= params.n_seq_max,
            "n_seq = ", config.n_seq, " with n_seq_max = ", params.n_seq_max,
            " of the target");
    if (llama_model_is_recurrent(model) || llama_model_is_hybrid(model)) {
        const auto wanted = types.draft_context() ? config.n_max : 1;
        require(static_cast<int32_t>(params.n_rs_seq) >= wanted,
                "the target keeps a recurrent state and can take back n_rs_seq = ", params.n_rs_seq,
                " tokens: drafts of ", wanted, " need as many");
    }
}

void check_draft(const struct llc_spec_config & config, const llc::spec_types & types) {
    require(config.ctx_dft != config.ctx_tgt, "target and draft are one context");
    const auto & params    = config.ctx_dft->get_cparams();
    const auto & target    = config.ctx_tgt->get_cparams();
    const auto * model     = llama_get_model(config.ctx_dft);
    const auto * model_tgt = llama_get_model(config.ctx_tgt);
    require(llama_get_memory(config.ctx_dft) != nullptr && !llama_model_is_diffusion(model),
            "the draft model is none that makes one token after the other");
    require(config.n_seq == params.n_seq_max,
            "n_seq = ", config.n_seq, " with n_seq_max = ", params.n_seq_max,
            " of the draft context: they must be equal");
    require(params.n_ctx_seq >= target.n_ctx_seq,
            "the draft context holds ", params.n_ctx_seq, " tokens of a sequence, the target ", target.n_ctx_seq);
    require(params.n_batch >= target.n_batch,
            "the draft context takes n_batch = ", params.n_batch, " rows, the target ", target.n_batch);
    const bool mtp = types.has(COMMON_SPECULATIVE_TYPE_DRAFT_MTP);
    require(mtp == (params.ctx_type == LLAMA_CONTEXT_TYPE_MTP),
            mtp ? "the draft context is not of type MTP" : "the draft context is of type MTP");
    const bool block = types.has(COMMON_SPECULATIVE_TYPE_DRAFT_DFLASH) || types.has(COMMON_SPECULATIVE_TYPE_DRAFT_DSPARK);
    if (types.has(COMMON_SPECULATIVE_TYPE_DRAFT_EAGLE3)) {
        require(llama_model_target_layer_ids_n(model) == 3, "the draft model is no EAGLE-3 model");
    } else if (block) {
        require(llama_model_target_layer_ids_n(model) > 0, "the draft model is no DFlash model");
    }
    const auto rows  = static_cast<uint64_t>(config.n_seq) * (config.n_max + 1);
    require(rows <= params.n_batch, "drafts of all sequences have ", rows,
                                    " rows, the draft context takes n_batch = ", params.n_batch);
    if (block) {
        require(rows <= params.n_ubatch && rows <= params.n_outputs_max,
                "blocks of all sequences have ", rows, " rows: n_ubatch and n_outputs_max of the "
                "draft context must be as many");
        require(!config.backend_sampling || static_cast<uint32_t>(config.n_max) < params.n_outputs_max_per_seq,
                "n_outputs_max_per_seq of the draft context must be n_max + 1");
    }
    if (types.has(COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE) || mtp) {
        require(!llama_model_has_encoder(model), "the draft model has an encoder");
        if (model != model_tgt) {
            const auto difference = llc::spec_difference(model_tgt, model);
            require(difference.empty(), "target and draft model do not fit: ", difference);
        }
    }
    if (mtp) {
        require(llama_model_n_layer_nextn(model) > 0, "the draft model has no MTP heads");
        require(llama_model_n_embd_out(model) == llama_model_n_embd_out(model_tgt),
                "the MTP heads read ", llama_model_n_embd_out(model), " numbers of a row, the target "
                "makes ", llama_model_n_embd_out(model_tgt));
        require(target.pooling_type == LLAMA_POOLING_TYPE_NONE, "the target pools its embeddings");
    }
}

} // namespace

namespace llc {

bool spec_types::has(enum common_speculative_type type) const {
    return std::find(all.begin(), all.end(), type) != all.end();
}

bool spec_types::draft_context() const {
    return !std::all_of(all.begin(), all.end(), is_ngram);
}

spec_types spec_types_of(const struct llc_spec_config & config) {
    spec_types types;
    for (size_t k = 0; k < config.n_types; ++k) {
        const auto type = common_speculative_type_from_name(config.types[k]);
        require(type != COMMON_SPECULATIVE_TYPE_COUNT && type != COMMON_SPECULATIVE_TYPE_NONE,
                std::string("there is no type \"") + config.types[k], "\"");
        require(!types.has(type), std::string("the type \"") + config.types[k], "\" is named twice");
        types.all.push_back(type);
    }
    require(!types.all.empty(), "no type is named");
    require(std::count_if(types.all.begin(), types.all.end(), [](auto type) { return !is_ngram(type); }) <= 1,
            "two types that need the draft context");
    return types;
}

void check_spec_contexts(const struct llc_spec_config & config, const spec_types & types) {
    check_numbers(config, types);
    require(config.ctx_tgt != nullptr, "there is no target context");
    require(types.draft_context() == (config.ctx_dft != nullptr),
            types.draft_context() ? "there is no draft context" : "n-gram types have no draft context");
    check_target(config, types);
    if (config.ctx_dft != nullptr) {
        check_draft(config, types);
    }
}

bool enable_layer_inputs(struct llama_context * target, const struct llama_model * draft, const spec_types & types) {
    const bool eagle = types.has(COMMON_SPECULATIVE_TYPE_DRAFT_EAGLE3);
    if (!eagle && !types.has(COMMON_SPECULATIVE_TYPE_DRAFT_DFLASH) && !types.has(COMMON_SPECULATIVE_TYPE_DRAFT_DSPARK)) {
        return types.has(COMMON_SPECULATIVE_TYPE_DRAFT_MTP);
    }
    const int32_t   n_layer = llama_model_n_layer(llama_get_model(target));
    const int32_t * layers  = llama_model_target_layer_ids(draft);
    bool            nextn   = false;
    for (uint32_t k = 0; k < llama_model_target_layer_ids_n(draft); ++k) {
        if (eagle && layers[k] == n_layer) { // EAGLE-3 reads the next-n embeddings instead of the last output
            nextn = true;
        } else {
            set_layer_input(target, layers[k], true);
        }
    }
    return nextn;
}

std::string spec_difference(const struct llama_model * target, const struct llama_model * draft) {
    constexpr int32_t MAX_SIZE_DIFFERENCE = 128, FIRST_COMPARED = 5; // upstream's
    const auto * a = llama_model_get_vocab(target);
    const auto * b = llama_model_get_vocab(draft);
    const auto number = [](const char * what, int32_t of_target, int32_t of_draft) {
        return std::string(what) + " is " + std::to_string(of_target) + " in the target and " +
               std::to_string(of_draft) + " in the draft model";
    };
    if (llama_vocab_type(a) != llama_vocab_type(b)) {
        return number("the type of the vocabulary", llama_vocab_type(a), llama_vocab_type(b));
    }
    if (llama_vocab_get_add_bos(a) != llama_vocab_get_add_bos(b)) {
        return number("whether BOS is added", llama_vocab_get_add_bos(a), llama_vocab_get_add_bos(b));
    }
    if (llama_vocab_get_add_bos(a) && llama_vocab_bos(a) != llama_vocab_bos(b)) {
        return number("the BOS token", llama_vocab_bos(a), llama_vocab_bos(b));
    }
    if (llama_vocab_get_add_eos(a) != llama_vocab_get_add_eos(b)) {
        return number("whether EOS is added", llama_vocab_get_add_eos(a), llama_vocab_get_add_eos(b));
    }
    if (llama_vocab_get_add_eos(a) && llama_vocab_eos(a) != llama_vocab_eos(b)) {
        return number("the EOS token", llama_vocab_eos(a), llama_vocab_eos(b));
    }
    const int32_t n_a = llama_vocab_n_tokens(a), n_b = llama_vocab_n_tokens(b);
    if (std::abs(n_a - n_b) > MAX_SIZE_DIFFERENCE) {
        return number("the size of the vocabulary", n_a, n_b) + ", more than " + std::to_string(MAX_SIZE_DIFFERENCE) +
               " apart";
    }
    for (int32_t token = FIRST_COMPARED; token < std::min(n_a, n_b); ++token) {
        const char * text_a = llama_vocab_get_text(a, token);
        const char * text_b = llama_vocab_get_text(b, token);
        if (std::strcmp(text_a, text_b) != 0) {
            return "token " + std::to_string(token) + " is \"" + text_a + "\" in the target and \"" + text_b +
                   "\" in the draft model";
        }
    }
    return "";
}

} // namespace llc

enum llc_status llc_spec_compatible(
        const struct llama_model * target, const struct llama_model * draft, char ** difference) {
    *difference = nullptr;
    return guarded([&] {
        const auto text = llc::spec_difference(target, draft);
        if (!text.empty()) {
            *difference = strdup(text.c_str());
            if (*difference == nullptr) {
                throw std::bad_alloc();
            }
        }
        return LLC_OK;
    });
}

enum llc_status llc_spec_types_from_gguf(const char * path, char ** types) {
    *types = nullptr;
    return guarded([&] {
        const gguf_context_ptr file(gguf_init_from_file(path, {/*.no_alloc =*/ true, /*.ctx =*/ nullptr}));
        if (file == nullptr) {
            return LLC_FAILED;
        }
        const auto  arch_key = gguf_find_key(file.get(), "general.architecture");
        std::string names;
        if (arch_key >= 0 && gguf_get_kv_type(file.get(), arch_key) == GGUF_TYPE_STRING) {
            const std::string arch  = gguf_get_val_str(file.get(), arch_key);
            const auto        count = gguf_find_key(file.get(), (arch + ".block_count").c_str());
            // upstream reads that number without looking
            if (arch == "dflash" || (count >= 0 && gguf_get_kv_type(file.get(), count) == GGUF_TYPE_UINT32)) {
                names = common_speculative_type_name_str(common_speculative_types_from_gguf(path));
            }
            if (names.empty() && arch == "eagle3") { // such files are not told by upstream
                names = common_speculative_type_to_str(COMMON_SPECULATIVE_TYPE_DRAFT_EAGLE3);
            }
        }
        *types = strdup(names.c_str());
        if (*types == nullptr) {
            throw std::bad_alloc();
        }
        return LLC_OK;
    });
}

const char * llc_spec_all_types(void) {
    return common_speculative_all_types_str();
}
