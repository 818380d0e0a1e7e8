// What a speculation session consists of.
#pragma once

#include "guard.h"
#include "speculative.h"
#include "watch.h"

#include <memory>
#include <random>
#include <vector>

namespace llc {

class mtp_drafter;

struct spec_sequence {
    llama_tokens text;            // by position, up to the last token that was processed; upstream wants it at every draft
    size_t       n_known    = 0;  // length of the text that upstream has made notes of: it must not become shorter
    llama_tokens draft;           // is written to by what drafts
    int32_t      n_pending  = 0;  // length of the proposal that was not answered
    int32_t      n_verified = -1; // tokens of it that were processed, -1 before
};

// The types of a configuration, all of them asked for and possible with its contexts; throws invalid_argument otherwise.
struct spec_types {
    std::vector<enum common_speculative_type> all;

    bool has(enum common_speculative_type type) const;
    bool draft_context() const; // whether one of them needs it
};

spec_types  spec_types_of(const struct llc_spec_config & config);
void        check_spec_contexts(const struct llc_spec_config & config, const spec_types & types);
// Whether next-n embeddings are read as well, which upstream switches on itself.
bool        enable_layer_inputs(struct llama_context * target, const struct llama_model * draft, const spec_types & types);
std::string spec_difference(const struct llama_model * target, const struct llama_model * draft); // empty for none

} // namespace llc

struct llc_spec {
    struct llama_context *        tgt = nullptr;
    struct llama_context *        dft = nullptr;
    std::shared_ptr<llc::watched> on_tgt;
    std::shared_ptr<llc::watched> on_dft;
    llc::spec_types               types;
    common_speculative_ptr        upstream;
    std::unique_ptr<llc::mtp_drafter> mtp; // drafts instead of upstream, if there is one

    int32_t n_max       = 0;
    int32_t n_vocab     = 0;     // tokens that both models have
    bool    reads_nextn = false; // of the target
    bool    in_step     = false; // the draft memory has the positions of the target's
    bool    trims       = false; // the session cuts it
    bool    may_jump    = false; // M-RoPE: positions may be left out

    bool              nextn        = false; // as it was before the session
    bool              nextn_masked = false;
    std::vector<bool> layer_inputs;

    std::vector<llc::spec_sequence> sequences;
    common_batch                    batch;
    std::mt19937                    synth_rng;

    struct llc_spec_stats stats = {};
    std::vector<uint64_t> drafted; // by place
    std::vector<uint64_t> accepted;

    ~llc_spec();
};
