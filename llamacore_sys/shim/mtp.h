// Drafting with an MTP head that has a memory of its own: what common_speculative does for it, with a decode less per step.
//
// At each position the head reads the token there and what the target's last layer said of the position before. A draft
// begins with such a row, and goes on with rows that read the head's own output instead. The first is kept, the others are
// cut; the rows of what the target found right wait, and are computed together with the first token of the next draft.
#pragma once

#include "common.h"
#include "llamacore_shim.h"

#include <vector>

namespace llc {

class mtp_drafter {
  public:
    struct request {
        llama_seq_id   seq;
        llama_pos      pos;   // of the token that is not decoded yet
        llama_token    token;
        int32_t        n_max;
        llama_tokens * draft; // is written to
    };

    // With `trims` the memory is cut here and rows wait; without, it holds what was processed when process() returns.
    mtp_drafter(const struct llc_spec_config & config, int32_t n_max);

    // Whether these contexts can be driven so: one head, whose memory is not the target's.
    static bool drives(struct llama_context * tgt, struct llama_context * dft);

    // Up to where the memory can stay when the sequence goes on with this token at this position. Rows between there and
    // the position wait; a token that a draft began with is in the memory already (LLAMA_TOKEN_NULL: it has to go).
    llama_pos kept(llama_seq_id seq, llama_pos pos, llama_token token);

    void begin(llama_seq_id seq, const llama_tokens & text); // what waits and is of that text goes on waiting
    bool process(const common_batch & rows); // which the target has just decoded; false when they could not be decoded here
    void draft(const std::vector<request> & requests); // a failure ends the drafts where they are
    void accept(llama_seq_id seq, int32_t n_accepted); // of the rows that were processed last
    bool flush(llama_seq_id seq); // computes what waits

  private:
    struct waiting_row {
        llama_token token;
        llama_pos   pos;
        int32_t     state; // of `verified`
    };

    struct sequence {
        std::vector<float>       state;          // of the target, before the token that comes next
        std::vector<float>       verified;       // its rows for what was processed last
        std::vector<waiting_row> waiting;
        llama_pos                first_pos = -1; // of the last draft, whose row is in the memory
        llama_token              first_token = LLAMA_TOKEN_NULL;
        int32_t                  row = -1;       // of the batch, while drafting
    };

    bool take(const common_batch & rows);
    llama_pos last_of(llama_seq_id seq) const;
    void drop_stale(llama_seq_id seq);
    void add(llama_token token, llama_pos pos, llama_seq_id seq, const float * state, bool output);
    void add_waiting(llama_seq_id seq);
    bool decode();
    struct choice {
        llama_token token;
        float       p;
    };
    choice choose(int32_t row) const;

    struct llama_context * tgt_;
    struct llama_context * dft_;
    const int32_t          n_max_;
    const int32_t          n_min_;
    const float            p_min_;
    const bool             trims_;
    const size_t           n_embd_;
    bool                   all_states_   = false; // are read, not only those of outputs
    bool                   states_sound_ = true;  // of the last decode
    common_batch           batch_;
    std::vector<sequence>  sequences_;
};

} // namespace llc
