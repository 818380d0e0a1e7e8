// What a speculation session has to know of its contexts: what the target decoded last, and that nobody changes how.
#pragma once

#include "llama.h"
#include "rpc.h"

#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace llc {

struct watched {
    const bool               drafts;    // the draft context, not the target
    std::mutex               computing; // held by a decode, and by the end of the session
    bool                     sound = false; // the last decode succeeded, of tokens of one sequence each
    std::vector<llama_token>  token;
    std::vector<llama_pos>    pos;
    std::vector<llama_seq_id> seq;

    explicit watched(bool drafts) : drafts(drafts) {}
};

// Throws invalid_argument when the context is watched already.
std::shared_ptr<watched> watch(const struct llama_context * ctx, bool drafts);
void                     unwatch(const struct llama_context * ctx) noexcept;

// Throws invalid_argument when a session relies on the setting `what` of the context, a draft context if `drafts`.
void require_unwatched(const struct llama_context * ctx, const char * what, bool drafts = false);

// Around everything that decodes with a context; costs two loads of atomic numbers while there is neither a session nor
// a device on another machine.
class decode_scope {
  public:
    explicit decode_scope(struct llama_context * ctx); // throws device_lost
    ~decode_scope();
    decode_scope(const decode_scope &)             = delete;
    decode_scope & operator=(const decode_scope &) = delete;

    void computed() const { devices_.finish(ctx_); } // throws device_lost
    void done(const struct llama_batch & batch);     // it succeeded

  private:
    struct llama_context *   ctx_;
    device_scope             devices_;
    std::shared_ptr<watched> on_;
};

} // namespace llc
