#include "guard.h"
#include "rpc.h"

#include "llama-context.h"

using llc::guarded;

namespace {

template <typename Body> enum llc_status with_memory(struct llama_context * ctx, Body && body) {
    return guarded([&] {
        auto * memory = llama_get_memory(ctx);
        if (memory == nullptr) {
            throw llc::invalid_argument("this context has no memory (the model only encodes)");
        }
        body(memory);
        return LLC_OK;
    });
}

} // namespace

enum llc_status llc_memory_clear(struct llama_context * ctx, bool data) {
    return with_memory(ctx, [&](llama_memory_t memory) { llama_memory_clear(memory, data); });
}

enum llc_status llc_memory_seq_rm(struct llama_context * ctx, llama_seq_id seq, llama_pos p0, llama_pos p1, bool * done) {
    *done = false;
    return with_memory(ctx, [&](llama_memory_t memory) { *done = llama_memory_seq_rm(memory, seq, p0, p1); });
}

enum llc_status llc_memory_seq_cp(struct llama_context * ctx, llama_seq_id src, llama_seq_id dst, llama_pos p0, llama_pos p1) {
    return with_memory(ctx, [&](llama_memory_t memory) { llama_memory_seq_cp(memory, src, dst, p0, p1); });
}

enum llc_status llc_memory_seq_keep(struct llama_context * ctx, llama_seq_id seq) {
    return with_memory(ctx, [&](llama_memory_t memory) { llama_memory_seq_keep(memory, seq); });
}

enum llc_status llc_memory_seq_add(struct llama_context * ctx, llama_seq_id seq, llama_pos p0, llama_pos p1, llama_pos delta) {
    return with_memory(ctx, [&](llama_memory_t memory) { llama_memory_seq_add(memory, seq, p0, p1, delta); });
}

enum llc_status llc_memory_seq_div(struct llama_context * ctx, llama_seq_id seq, llama_pos p0, llama_pos p1, int32_t divisor) {
    return with_memory(ctx, [&](llama_memory_t memory) { llama_memory_seq_div(memory, seq, p0, p1, divisor); });
}

// Moved positions and copies between streams are carried out by the next decode; upstream would save the old data under
// the new positions.
static void apply_pending(struct llama_context * ctx) {
    ctx->memory_update(false);
    ctx->synchronize();
}

enum llc_status llc_state_size(struct llama_context * ctx, llama_seq_id seq, uint32_t flags, size_t * size) {
    *size = 0;
    return guarded([&] {
        *size = seq < 0 ? llama_state_get_size(ctx) : llama_state_seq_get_size_ext(ctx, seq, flags);
        return *size > 0 ? LLC_OK : LLC_FAILED;
    });
}

enum llc_status llc_state_get(
        struct llama_context * ctx, llama_seq_id seq, uint32_t flags, uint8_t * data, size_t capacity, size_t * written) {
    *written = 0;
    return guarded([&] {
        apply_pending(ctx);
        *written = seq < 0 ? llama_state_get_data(ctx, data, capacity)
                           : llama_state_seq_get_data_ext(ctx, data, capacity, seq, flags);
        llc::require_devices(llama_get_model(ctx));
        return *written > 0 ? LLC_OK : LLC_FAILED;
    });
}

enum llc_status llc_state_set(
        struct llama_context * ctx, llama_seq_id seq, uint32_t flags, const uint8_t * data, size_t size, size_t * read) {
    *read = 0;
    return guarded([&] {
        *read = seq < 0 ? llama_state_set_data(ctx, data, size)
                        : llama_state_seq_set_data_ext(ctx, data, size, seq, flags);
        llc::require_devices(llama_get_model(ctx));
        return *read > 0 ? LLC_OK : LLC_FAILED;
    });
}

enum llc_status llc_state_save_file(
        struct llama_context * ctx, llama_seq_id seq, const char * path, const llama_token * tokens, size_t n_tokens) {
    return guarded([&] {
        apply_pending(ctx);
        const bool done = seq < 0 ? llama_state_save_file(ctx, path, tokens, n_tokens)
                                  : llama_state_seq_save_file(ctx, path, seq, tokens, n_tokens) > 0;
        llc::require_devices(llama_get_model(ctx));
        return done ? LLC_OK : LLC_FAILED;
    });
}

enum llc_status llc_adapter_lora_load(
        struct llama_model * model, const char * path, struct llama_adapter_lora ** adapter) {
    *adapter = nullptr;
    return guarded([&] {
        *adapter = llama_adapter_lora_init(model, path);
        return *adapter != nullptr ? LLC_OK : LLC_FAILED;
    });
}

enum llc_status llc_set_adapters_lora(
        struct llama_context * ctx, struct llama_adapter_lora ** adapters, size_t n_adapters, float * scales) {
    return guarded([&] { return llama_set_adapters_lora(ctx, adapters, n_adapters, scales) == 0 ? LLC_OK : LLC_FAILED; });
}

enum llc_status llc_set_adapter_cvec(
        struct llama_context * ctx, const float * data, size_t n_floats, int32_t n_embd, int32_t first, int32_t last) {
    return guarded([&] {
        return llama_set_adapter_cvec(ctx, data, n_floats, n_embd, first, last) == 0 ? LLC_OK : LLC_FAILED;
    });
}
