#include "mtp.h"

#include "graph_rows.h"
#include "likeliest.h"
#include "llama-ext.h"

#include <algorithm>
#include <cmath>
#include <iterator>

namespace llc {

namespace {

constexpr size_t N_LIKELIEST = 10; // among which upstream measures how sure a guess is

} // namespace

bool mtp_drafter::drives(struct llama_context * tgt, struct llama_context * dft) {
    return llama_model_n_layer_nextn(llama_get_model(dft)) == 1 && llama_get_ctx_other(dft) != tgt;
}

mtp_drafter::mtp_drafter(const struct llc_spec_config & config, int32_t n_max)
    : tgt_(config.ctx_tgt), dft_(config.ctx_dft), n_max_(n_max), n_min_(config.n_min), p_min_(config.p_min),
      trims_(config.trims), n_embd_(llama_model_n_embd_out(llama_get_model(dft_))), batch_(dft_),
      sequences_(config.n_seq) {
    for (auto & on : sequences_) {
        on.state.assign(n_embd_, 0.0f);
    }
}

llama_pos mtp_drafter::kept(llama_seq_id seq, llama_pos pos, llama_token token) {
    auto & on = sequences_[seq];
    if (on.first_pos == pos && on.first_token == token && last_of(seq) == pos) {
        return pos + 1;
    }
    on.first_pos = -1;
    drop_stale(seq);
    while (!on.waiting.empty() && on.waiting.back().pos >= pos) {
        on.waiting.pop_back();
    }
    if (!on.waiting.empty() && on.waiting.back().pos != pos - 1) {
        on.waiting.clear(); // others were decoded that were not processed
    }
    return on.waiting.empty() ? pos : on.waiting.front().pos;
}

void mtp_drafter::begin(llama_seq_id seq, const llama_tokens & text) {
    auto &     on     = sequences_[seq];
    const auto has    = [&](const waiting_row & row) {
        return static_cast<size_t>(row.pos) < text.size() && text[row.pos] == row.token;
    };
    on.first_pos = -1;
    on.waiting.erase(std::find_if_not(on.waiting.begin(), on.waiting.end(), has), on.waiting.end());
}

bool mtp_drafter::process(const common_batch & rows) {
    if (take(rows)) {
        return true;
    }
    for (const auto & row : rows.tokens) {
        sequences_[row.seq_id].waiting.clear(); // some of them nobody has verified
    }
    return false;
}

bool mtp_drafter::take(const common_batch & rows) {
    const auto n_rows = rows.size();
    const auto end_of = [&](int32_t start) {
        int32_t end = start;
        while (end < n_rows && rows.tokens[end].seq_id == rows.tokens[start].seq_id) {
            ++end;
        }
        return end;
    };
    for (int32_t start = 0; start < n_rows; start = end_of(start)) {
        const auto & on = sequences_[rows.tokens[start].seq_id];
        if (on.first_pos < 0 && !flush(rows.tokens[start].seq_id)) {
            return false;
        }
    }
    batch_.clear();
    for (int32_t start = 0; start < n_rows; start = end_of(start)) {
        const auto seq    = rows.tokens[start].seq_id;
        const auto end    = end_of(start);
        auto &     on     = sequences_[seq];
        const bool known  = on.first_pos == rows.tokens[start].pos[0]; // its first row
        const bool waits  = known && end - start <= n_max_ + 1;
        on.first_pos      = -1;
        on.verified.resize((end - start) * n_embd_);
        for (int32_t row = start; row < end; ++row) {
            const auto * state = llama_get_embeddings_nextn_ith(tgt_, row);
            if (state == nullptr) {
                return false;
            }
            std::copy_n(state, n_embd_, on.verified.begin() + (row - start) * n_embd_);
        }
        for (int32_t row = start + (known ? 1 : 0); row < end; ++row) {
            const auto & token = rows.tokens[row];
            if (waits) {
                on.waiting.push_back({token.id, token.pos[0], row - start - 1});
            } else {
                add(token.id, token.pos[0], seq,
                    row == start ? on.state.data() : on.verified.data() + (row - start - 1) * n_embd_, false);
            }
        }
    }
    if (batch_.size() > 0 && !decode()) {
        return false;
    }
    for (int32_t start = 0; start < n_rows; start = end_of(start)) { // the batch above read the states before
        auto & on = sequences_[rows.tokens[start].seq_id];
        std::copy(on.verified.end() - n_embd_, on.verified.end(), on.state.begin());
    }
    return true;
}

void mtp_drafter::draft(const std::vector<request> & requests) {
    std::vector<request> drafting;
    std::copy_if(requests.begin(), requests.end(), std::back_inserter(drafting), [&](const request & on) {
        return on.n_max >= n_min_;
    });
    // sequences with memories of their own share a micro-batch where they follow each other
    std::sort(drafting.begin(), drafting.end(), [](const auto & a, const auto & b) { return a.seq < b.seq; });
    const auto asked = drafting;
    batch_.clear();
    for (const auto & on : asked) {
        auto & sequence = sequences_[on.seq];
        add_waiting(on.seq);
        sequence.row = batch_.size();
        add(on.token, on.pos, on.seq, sequence.state.data(), true);
    }
    llama_pos step = 0;
    for (; !drafting.empty() && decode(); ++step) {
        batch_.clear();
        const auto ends = [&](const request & on) {
            auto &       row   = sequences_[on.seq].row;
            const auto   next  = choose(row);
            const auto * state = states_sound_ ? llama_get_embeddings_nextn_ith(dft_, row) : nullptr;
            if (next.p < p_min_) {
                return true;
            }
            on.draft->push_back(next.token);
            if (state == nullptr || static_cast<int32_t>(on.draft->size()) >= on.n_max) {
                return true;
            }
            row = batch_.size();
            add(next.token, on.pos + step + 1, on.seq, state, true);
            return false;
        };
        drafting.erase(std::remove_if(drafting.begin(), drafting.end(), ends), drafting.end());
    }
    for (const auto & on : asked) {
        if (static_cast<int32_t>(on.draft->size()) < n_min_) {
            on.draft->clear();
        }
        if (step > 0) {
            sequences_[on.seq].waiting.clear();
        }
        if (step > 0 && trims_ && llama_memory_seq_rm(llama_get_memory(dft_), on.seq, on.pos + 1, -1)) {
            sequences_[on.seq].first_pos   = on.pos;
            sequences_[on.seq].first_token = on.token;
        }
    }
}

void mtp_drafter::accept(llama_seq_id seq, int32_t n_accepted) {
    auto & on = sequences_[seq];
    if (on.verified.size() < (n_accepted + 1) * n_embd_) {
        return;
    }
    on.waiting.resize(std::min<size_t>(on.waiting.size(), n_accepted));
    std::copy_n(on.verified.begin() + n_accepted * n_embd_, n_embd_, on.state.begin());
}

bool mtp_drafter::flush(llama_seq_id seq) {
    drop_stale(seq);
    batch_.clear();
    add_waiting(seq);
    if (batch_.size() > 0 && !decode()) {
        return false;
    }
    sequences_[seq].waiting.clear();
    return true;
}

llama_pos mtp_drafter::last_of(llama_seq_id seq) const {
    return llama_memory_seq_pos_max(llama_get_memory(dft_), seq);
}

// Rows wait for the end of the memory: somebody may have cut it before them, or filled it.
void mtp_drafter::drop_stale(llama_seq_id seq) {
    auto & waiting = sequences_[seq].waiting;
    if (!waiting.empty() && waiting.front().pos != last_of(seq) + 1) {
        waiting.clear();
    }
}

void mtp_drafter::add(llama_token token, llama_pos pos, llama_seq_id seq, const float * state, bool output) {
    batch_.set_embd(batch_.add(token, pos, seq, output), {state, 1, n_embd_});
}

void mtp_drafter::add_waiting(llama_seq_id seq) {
    auto & on = sequences_[seq];
    for (const auto & row : on.waiting) {
        add(row.token, row.pos, seq, on.verified.data() + row.state * n_embd_, false);
    }
}

// Upstream reads the head's states of the rows with outputs. Some of its graphs keep those of all rows, of which it then
// reads the first ones: those that have no outputs are read too, from the next decode on.
bool mtp_drafter::decode() {
    if (llama_process(dft_, LLAMA_PROCESS_TYPE_DECODE, batch_.get()) != 0) {
        return false;
    }
    states_sound_ = all_states_ || !keeps_all_nextn_rows(dft_);
    if (!states_sound_) {
        all_states_ = true;
        llama_set_embeddings_nextn(dft_, true, /*masked*/ false);
    }
    return true;
}

// The likeliest token, and its probability among the likeliest few; without p_min, which is all that asks for it, 1.
mtp_drafter::choice mtp_drafter::choose(int32_t row) const {
    const float *       logits = llama_get_sampled_logits_ith(dft_, row); // chosen by the device
    const llama_token * tokens = llama_get_sampled_candidates_ith(dft_, row);
    size_t              n      = llama_get_sampled_logits_count_ith(dft_, row);
    if (logits == nullptr) {
        logits = llama_get_logits_ith(dft_, row);
        tokens = nullptr;
        n      = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(dft_)));
    }
    if (logits == nullptr) {
        return {LLAMA_TOKEN_NULL, -1.0f};
    }
    std::vector<llama_token_data> found;
    found.reserve(N_LIKELIEST);
    likeliest(logits, 0, static_cast<int32_t>(n), p_min_ > 0.0f ? N_LIKELIEST : 1, found);
    if (found.empty()) {
        return {LLAMA_TOKEN_NULL, -1.0f};
    }
    const auto best = *std::max_element(found.begin(), found.end(), [](const auto & a, const auto & b) {
        return a.logit < b.logit;
    });
    float sum = 0.0f;
    for (const auto & one : found) {
        sum += std::exp(one.logit - best.logit);
    }
    return {tokens != nullptr ? tokens[best.id] : best.id, 1.0f / sum};
}

} // namespace llc
