#include "watch.h"

#include "guard.h"

#include <atomic>
#include <map>

namespace llc {

namespace {

std::mutex                                                            mutex;
std::map<const struct llama_context *, std::shared_ptr<watched>> contexts;
std::atomic<size_t>                                                   n_contexts{0};

std::shared_ptr<watched> find(const struct llama_context * ctx) {
    if (n_contexts.load(std::memory_order_relaxed) == 0) {
        return nullptr;
    }
    std::lock_guard<std::mutex> lock(mutex);
    const auto at = contexts.find(ctx);
    return at == contexts.end() ? nullptr : at->second;
}

} // namespace

std::shared_ptr<watched> watch(const struct llama_context * ctx, bool drafts) {
    std::lock_guard<std::mutex> lock(mutex);
    auto on = std::make_shared<watched>(drafts);
    if (!contexts.emplace(ctx, on).second) {
        throw invalid_argument("the context belongs to another speculation session: close that first");
    }
    n_contexts = contexts.size();
    return on;
}

void unwatch(const struct llama_context * ctx) noexcept {
    std::lock_guard<std::mutex> lock(mutex);
    contexts.erase(ctx);
    n_contexts = contexts.size();
}

void require_unwatched(const struct llama_context * ctx, const char * what, bool drafts) {
    const auto on = find(ctx);
    if (on != nullptr && (on->drafts || !drafts)) {
        throw invalid_argument(std::string("a speculation session of this context relies on its ") + what);
    }
}

decode_scope::decode_scope(struct llama_context * ctx) : ctx_(ctx), devices_(ctx), on_(find(ctx)) {
    if (on_ != nullptr) {
        on_->computing.lock();
        on_->sound = false;
    }
}

decode_scope::~decode_scope() {
    if (on_ != nullptr) {
        on_->computing.unlock();
    }
}

void decode_scope::done(const struct llama_batch & batch) {
    if (on_ == nullptr || batch.token == nullptr || batch.pos == nullptr || batch.seq_id == nullptr) {
        return;
    }
    on_->token.assign(batch.token, batch.token + batch.n_tokens);
    on_->pos.assign(batch.pos, batch.pos + batch.n_tokens);
    on_->seq.clear();
    for (int32_t row = 0; row < batch.n_tokens; ++row) {
        if (batch.n_seq_id[row] != 1) {
            return;
        }
        on_->seq.push_back(batch.seq_id[row][0]);
    }
    on_->sound = true;
}

} // namespace llc
