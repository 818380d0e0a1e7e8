#include "mtp.h"
#include "speculation.h"

#include "llama-ext.h"
#include "ngram-cache.h"
#include "synthetic.h"

#include <algorithm>
#include <cstring>

using llc::guarded;
using llc::require;

namespace {

class time_added {
  public:
    explicit time_added(int64_t & to) : to_(to), start_(ggml_time_us()) {}
    ~time_added() { to_ += ggml_time_us() - start_; }

  private:
    int64_t & to_;
    int64_t   start_;
};

llc::spec_sequence & sequence(struct llc_spec & spec, llama_seq_id seq) {
    require(seq >= 0 && static_cast<size_t>(seq) < spec.sequences.size(),
            "sequence ", seq, " is not 0 to ", spec.sequences.size() - 1);
    return spec.sequences[seq];
}

void require_token(const struct llc_spec & spec, llama_token token) {
    require(token >= 0 && token < spec.n_vocab, "token ", token, " is not in the vocabulary (0 to ", spec.n_vocab - 1, ")");
}

void require_length(const struct llc_spec & spec, const llc::spec_sequence & of, llama_pos length) {
    const auto room = of.text.size() + std::max<size_t>(llama_n_ctx(spec.tgt), 1);
    require(static_cast<size_t>(length) <= room, "position ", length, " is far behind the text");
}

// The n-gram maps point into the text that they were shown, and read there: they start anew when it is another one.
void show_text(struct llc_spec & spec, llama_seq_id seq) {
    auto & known = spec.sequences[seq];
    known.n_known = known.text.size();
    common_speculative_begin(spec.upstream.get(), seq, {});
    common_speculative_begin(spec.upstream.get(), seq, known.text);
}

// Cuts the draft memory to what is before a token; whether that is all there.
bool bring_in_step(struct llc_spec & spec, llama_seq_id seq, llama_pos pos, llama_token token = LLAMA_TOKEN_NULL) {
    auto *     memory = llama_get_memory(spec.dft);
    const auto end    = spec.mtp != nullptr ? spec.mtp->kept(seq, pos, token) : pos;
    const auto last   = llama_memory_seq_pos_max(memory, seq);
    require(last < end || llama_memory_seq_rm(memory, seq, end, -1),
            "the memory of the draft context does not take back positions of sequence ", seq);
    return last >= end - 1;
}

void check_rows(struct llc_spec & spec, const struct llama_batch & batch, int32_t n_rows) {
    const auto & seen = *spec.on_tgt;
    require(batch.token != nullptr && batch.pos != nullptr && batch.seq_id != nullptr, "the batch has no tokens");
    require(n_rows > 0 && n_rows <= batch.n_tokens, n_rows, " rows of a batch of ", batch.n_tokens);
    require(seen.sound && seen.token.size() == static_cast<size_t>(batch.n_tokens) &&
            std::equal(seen.token.begin(), seen.token.end(), batch.token) &&
            std::equal(seen.pos.begin(), seen.pos.end(), batch.pos),
            "this batch is not what the target has decoded last");
    std::vector<bool> met(spec.sequences.size(), false);
    for (int32_t row = 0; row < n_rows; ++row) {
        const auto seq = seen.seq[row];
        require(batch.n_seq_id[row] == 1 && batch.seq_id[row][0] == seq,
                "this batch is not what the target has decoded last");
        if (spec.dft != nullptr) {
            require_token(spec, batch.token[row]); // the draft model may have fewer
        }
        if (row > 0 && seq == seen.seq[row - 1]) {
            require(batch.pos[row] == batch.pos[row - 1] + 1, "the positions of sequence ", seq, " do not follow each other");
            continue;
        }
        auto & on = sequence(spec, seq);
        require(!met[seq], "the rows of sequence ", seq, " are not side by side");
        met[seq] = true;
        require(on.n_verified < 0, "the proposal of sequence ", seq, " was processed: accept it first");
        require_length(spec, on, batch.pos[row]);
        if (spec.in_step && !spec.trims) {
            const auto last = llama_memory_seq_pos_max(llama_get_memory(spec.dft), seq);
            require(last < 0 || last + 1 == batch.pos[row] || (spec.may_jump && last < batch.pos[row]),
                    "the draft context holds positions up to ", last, " of sequence ", seq,
                    ", the batch starts at ", batch.pos[row],
                    ": remove what was drafted, process every batch");
        }
    }
}

void take_rows(struct llc_spec & spec, const struct llama_batch & batch, int32_t n_rows) {
    spec.batch.clear();
    for (int32_t row = 0; row < n_rows; ++row) {
        const auto seq   = batch.seq_id[row][0];
        auto &     text  = spec.sequences[seq].text;
        if (row == 0 || seq != batch.seq_id[row - 1][0]) {
            if (spec.in_step && spec.trims && !bring_in_step(spec, seq, batch.pos[row], batch.token[row])) {
                llama_memory_seq_rm(llama_get_memory(spec.dft), seq, -1, -1); // it goes on from here
            }
            text.resize(batch.pos[row], LLAMA_TOKEN_NULL); // a gap, such as an image leaves, has tokens that are none
        }
        text.push_back(batch.token[row]);
        spec.batch.add(batch.token[row], batch.pos[row], seq, batch.logits != nullptr && batch.logits[row] != 0);
    }
}

struct wish {
    llama_seq_id seq;
    llama_pos    pos0;
    llama_token  id_last;
    int32_t      n_max;
};

void check_wish(struct llc_spec & spec, const wish & on) {
    const auto & state = sequence(spec, on.seq);
    require(state.n_pending == 0, "a proposal of sequence ", on.seq, " was not accepted yet");
    require(on.pos0 >= 0, "position ", on.pos0);
    require_length(spec, state, on.pos0);
    require_token(spec, on.id_last);
    if (spec.in_step && on.n_max > 0 && !spec.trims) {
        const auto last = llama_memory_seq_pos_max(llama_get_memory(spec.dft), on.seq);
        require(last + 1 == on.pos0, "the draft context holds positions up to ", last, " of sequence ", on.seq,
                                     ", the draft starts at ", on.pos0,
                                     ": process what the target decoded, remove what was rejected");
    }
}

void ask(struct llc_spec & spec, const wish & on) {
    auto & state = spec.sequences[on.seq];
    state.draft.clear();
    state.text.resize(on.pos0, LLAMA_TOKEN_NULL);
    if (spec.mtp == nullptr && state.text.size() < state.n_known) {
        show_text(spec, on.seq);
    }
    state.n_known = state.text.size();
    ++spec.stats.n_draft;
    // ngram-cache reads that many tokens before the draft without looking
    if (spec.types.has(COMMON_SPECULATIVE_TYPE_NGRAM_CACHE) && state.text.size() + 1 < LLAMA_NGRAM_MAX) {
        return;
    }
    common_speculative_get_draft_params(spec.upstream.get(), on.seq) = {
        /* .drafting = */ true, /* .n_max   = */ on.n_max,      /* .pos0   = */ on.pos0,
        /* .id_last  = */ on.id_last, /* .prompt = */ &state.text, /* .result = */ &state.draft,
    };
}

void forget_wishes(struct llc_spec & spec) noexcept {
    for (size_t seq = 0; seq < spec.sequences.size(); ++seq) {
        common_speculative_get_draft_params(spec.upstream.get(), static_cast<llama_seq_id>(seq)).drafting = false;
    }
}

void collect(struct llc_spec & spec, const wish & on, llama_token * tokens, int32_t & count) {
    auto &     state  = spec.sequences[on.seq];
    const auto usable = [&](llama_token token) { return token >= 0 && token < spec.n_vocab; };
    const auto end    = std::find_if_not(state.draft.begin(), state.draft.end(), usable);
    count             = std::min<int32_t>(static_cast<int32_t>(end - state.draft.begin()), on.n_max);
    std::copy_n(state.draft.begin(), count, tokens);
    state.n_pending  = count;
    state.n_verified = -1;
    spec.stats.n_drafts       += count > 0;
    spec.stats.n_draft_tokens += count;
    for (int32_t place = 0; place < count; ++place) {
        ++spec.drafted[place];
    }
}

} // namespace

bool llc::spec_takes(struct llc_spec & spec, int32_t place) {
    const auto & probabilities = common_speculative_get_synth_probs(spec.upstream.get());
    std::uniform_real_distribution<double> uniform(0.0, 1.0);
    return static_cast<size_t>(place) < probabilities.size() && uniform(spec.synth_rng) < probabilities[place];
}

int32_t llc_spec_n_max(const struct llc_spec * spec) {
    return spec->n_max;
}

bool llc_spec_shares_memory(const struct llc_spec * spec) {
    return spec->dft != nullptr && llama_get_ctx_other(spec->dft) == spec->tgt &&
           !spec->types.has(COMMON_SPECULATIVE_TYPE_DRAFT_EAGLE3);
}

bool llc_spec_need_embd_nextn(const struct llc_spec * spec) {
    return spec->reads_nextn;
}

enum llc_status llc_spec_begin(struct llc_spec * spec, llama_seq_id seq, const llama_token * tokens, size_t n_tokens) {
    return guarded([&] {
        auto & on = sequence(*spec, seq);
        std::for_each(tokens, tokens + n_tokens, [&](llama_token token) { require_token(*spec, token); });
        const time_added timer(spec->stats.t_begin_us);
        on.text.assign(tokens, tokens + n_tokens);
        on.n_pending  = 0;
        on.n_verified = -1;
        if (spec->mtp != nullptr) {
            spec->mtp->begin(seq, on.text);
        } else {
            show_text(*spec, seq);
        }
        ++spec->stats.n_begin;
        return LLC_OK;
    });
}

enum llc_status llc_spec_process(struct llc_spec * spec, const struct llama_batch * batch, int32_t n_rows) {
    return guarded([&] {
        check_rows(*spec, *batch, n_rows);
        require(!spec->reads_nextn || llama_get_embeddings_nextn(spec->tgt) != nullptr, // upstream does not look
                "the target has no next-n embeddings");
        const time_added timer(spec->stats.t_process_us);
        take_rows(*spec, *batch, n_rows);
        spec->on_tgt->sound = false; // once is enough
        ++spec->stats.n_process;
        const llc::device_scope drafting(spec->dft);
        const bool              processed = spec->mtp != nullptr
                                                ? spec->mtp->process(spec->batch)
                                                : common_speculative_process(spec->upstream.get(), spec->batch);
        drafting.finish(spec->dft);
        if (!processed) {
            return llc::fail(LLC_FAILED, "the draft context could not decode the batch");
        }
        for (int32_t row = 0, start = 0; row < n_rows; ++row) {
            const auto seq = batch->seq_id[row][0];
            if (row + 1 == n_rows || batch->seq_id[row + 1][0] != seq) {
                auto & on = spec->sequences[seq];
                on.n_verified = on.n_pending > 0 ? row - start : -1;
                start         = row + 1;
            }
        }
        return LLC_OK;
    });
}

enum llc_status llc_spec_draft(
        struct llc_spec * spec, size_t n, const llama_seq_id * seqs, const llama_pos * pos0, const llama_token * id_last,
        const int32_t * n_max, llama_token * out_tokens, size_t stride, int32_t * out_counts) {
    std::fill_n(out_counts, n, 0);
    return guarded([&] {
        std::vector<wish> wishes;
        std::vector<bool> met(spec->sequences.size(), false);
        for (size_t k = 0; k < n; ++k) {
            wishes.push_back({seqs[k], pos0[k], id_last[k], std::min(n_max[k], spec->n_max)});
            check_wish(*spec, wishes.back());
            require(n_max[k] >= 0, "n_max = ", n_max[k]);
            require(static_cast<size_t>(wishes.back().n_max) <= stride, "there is no room for the drafts");
            require(!met[seqs[k]], "sequence ", seqs[k], " is named twice");
            met[seqs[k]] = true;
        }
        const time_added timer(spec->stats.t_draft_us);
        struct tidy {
            struct llc_spec & spec;
            ~tidy() { forget_wishes(spec); }
        } scope{*spec};
        std::vector<llc::mtp_drafter::request> requests;
        for (const auto & on : wishes) {
            spec->sequences[on.seq].draft.clear();
            const bool ready = !spec->in_step || !spec->trims || bring_in_step(*spec, on.seq, on.pos0);
            if (on.n_max > 0 && ready) {
                ask(*spec, on);
                requests.push_back({on.seq, on.pos0, on.id_last, on.n_max, &spec->sequences[on.seq].draft});
            }
        }
        const llc::device_scope drafting(spec->dft);
        if (spec->mtp != nullptr) {
            spec->mtp->draft(requests);
        } else {
            common_speculative_draft(spec->upstream.get());
        }
        drafting.finish(spec->dft);
        for (size_t k = 0; k < n; ++k) {
            collect(*spec, wishes[k], out_tokens + k * stride, out_counts[k]);
        }
        return LLC_OK;
    });
}

enum llc_status llc_spec_accept(struct llc_spec * spec, llama_seq_id seq, int32_t n_accepted) {
    return guarded([&] {
        auto & on = sequence(*spec, seq);
        require(on.n_pending > 0, "there is no proposal of sequence ", seq);
        require(n_accepted >= 0 && n_accepted <= on.n_pending,
                n_accepted, " accepted tokens of a proposal of ", on.n_pending);
        require(n_accepted <= std::max(on.n_verified, 0),
                n_accepted, " accepted tokens, ", std::max(on.n_verified, 0),
                " of the proposal were processed");
        if (on.n_verified >= 0) { // else it was given up, and upstream would go back to the rows of an earlier batch
            const time_added timer(spec->stats.t_accept_us);
            if (spec->mtp != nullptr) {
                spec->mtp->accept(seq, n_accepted);
            } else {
                common_speculative_accept(spec->upstream.get(), seq, static_cast<uint16_t>(n_accepted));
            }
            ++spec->stats.n_accept;
            spec->stats.n_drafts_accepted += n_accepted > 0;
            spec->stats.n_accepted_tokens += n_accepted;
            for (int32_t place = 0; place < n_accepted; ++place) {
                ++spec->accepted[place];
            }
        }
        on.n_pending  = 0;
        on.n_verified = -1;
        return LLC_OK;
    });
}

enum llc_status llc_spec_flush(struct llc_spec * spec, llama_seq_id seq) {
    return guarded([&] {
        sequence(*spec, seq);
        const time_added        timer(spec->stats.t_process_us);
        const llc::device_scope drafting(spec->dft);
        const bool              done = spec->mtp == nullptr || spec->mtp->flush(seq);
        drafting.finish(spec->dft);
        return done ? LLC_OK : llc::fail(LLC_FAILED, "the draft context could not decode what was verified");
    });
}

int32_t llc_spec_pending(const struct llc_spec * spec, llama_seq_id seq) {
    return seq >= 0 && static_cast<size_t>(seq) < spec->sequences.size() ? spec->sequences[seq].n_pending : 0;
}

enum llc_status llc_spec_state_get(
        struct llc_spec * spec, llama_seq_id seq, uint8_t * data, size_t capacity, size_t * size) {
    *size = 0;
    return guarded([&] {
        sequence(*spec, seq);
        std::vector<uint8_t> state;
        if (!common_speculative_get_state(spec->upstream.get(), seq, state)) {
            return llc::fail(LLC_UNAVAILABLE, "this type keeps no state that could be saved");
        }
        *size = state.size();
        if (data != nullptr) {
            require(capacity >= state.size(), "there is no room for the state");
            std::copy(state.begin(), state.end(), data);
        }
        return LLC_OK;
    });
}

enum llc_status llc_spec_state_set(struct llc_spec * spec, llama_seq_id seq, const uint8_t * data, size_t size) {
    return guarded([&] {
        const auto & on = sequence(*spec, seq);
        if (!spec->types.has(COMMON_SPECULATIVE_TYPE_DRAFT_EAGLE3)) {
            return llc::fail(LLC_UNAVAILABLE, "this type keeps no state that could be saved");
        }
        require(on.n_pending == 0, "a proposal of sequence ", seq, " was not accepted yet");
        const auto expected = sizeof(llama_pos) + llama_model_n_embd(llama_get_model(spec->dft)) * sizeof(float);
        llama_pos  pos      = -1;
        require(size == expected, "the state has ", size, " bytes, not ", expected);
        std::memcpy(&pos, data, sizeof(pos));
        require(pos >= 0, "the state is damaged");
        common_speculative_set_state(spec->upstream.get(), seq, std::vector<uint8_t>(data, data + size));
        return LLC_OK;
    });
}

void llc_spec_get_stats(const struct llc_spec * spec, struct llc_spec_stats * stats) {
    *stats = spec->stats;
}

int32_t llc_spec_positions(const struct llc_spec * spec, int32_t capacity, uint64_t * drafted, uint64_t * accepted) {
    const auto n = std::min<size_t>(std::max(capacity, 0), spec->drafted.size());
    std::copy_n(spec->drafted.begin(), n, drafted);
    std::copy_n(spec->accepted.begin(), n, accepted);
    return static_cast<int32_t>(spec->drafted.size());
}

void llc_spec_reset_stats(struct llc_spec * spec) {
    spec->stats = {};
    std::fill(spec->drafted.begin(), spec->drafted.end(), 0);
    std::fill(spec->accepted.begin(), spec->accepted.end(), 0);
}
