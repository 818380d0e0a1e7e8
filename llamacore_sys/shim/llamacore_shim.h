// llamacore shim: a C face for what llama.cpp's C API lacks or throws from.
//
// Rules of this boundary:
//   - every function that can fail returns an llc_status; results leave through out-parameters, which are nulled first;
//   - nothing throws across it: every body runs inside guarded() (guard.h), which also turns a failed GGML_ASSERT on the
//     calling thread into LLC_ABORTED; llc_last_error() then holds the text for the calling thread until its next call;
//   - strings handed out are freed with llc_string_free().
// The part between the cdef marks is given to cffi as it stands: no preprocessor lines in it.
#ifndef LLAMACORE_SHIM_H
#define LLAMACORE_SHIM_H

#include "llama.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#    ifdef LLC_BUILD
#        define LLC_API __declspec(dllexport)
#    else
#        define LLC_API __declspec(dllimport)
#    endif
#else
#    define LLC_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* cdef: begin */

/* status */

enum llc_status {
    LLC_OK               = 0,
    LLC_INVALID_ARGUMENT = 1, /* refused before upstream was called */
    LLC_OUT_OF_MEMORY    = 2, /* std::bad_alloc */
    LLC_EXCEPTION        = 3, /* another C++ exception; llc_last_error() is its what() */
    LLC_ABORTED          = 4, /* a GGML_ASSERT failed; the object it failed in must not be used again, only freed */
    LLC_FAILED           = 5, /* upstream reported failure without an exception; the log says why */
    LLC_NO_OUTPUT        = 6, /* the row asked for has no logits or embeddings */
    LLC_NO_TOKEN         = 7, /* the sampler chain selected no token */
    LLC_UNAVAILABLE      = 8, /* there is nothing of that kind here */
    LLC_DEVICE_LOST      = 9, /* the connection to a device on another machine is gone; llc_last_error() says why */
};

LLC_API const char * llc_last_error(void);
LLC_API void         llc_string_free(char * text);

/* raises on purpose, for the tests of the boundary: 0 std::runtime_error, 1 std::bad_alloc, 2 GGML_ABORT, 3 an int */
LLC_API enum llc_status llc_test_throw(int32_t kind, const char * message);

/* gate */

LLC_API const char * llc_build_version(void);
LLC_API const char * llc_build_commit(void);
LLC_API const char * llc_build_interface(void); /* hash of these declarations, as they were when this was compiled */
LLC_API size_t       llc_struct_size(const char * name);   /* 0 = unknown name */
/* file that "llama", "ggml", "ggml-base", "mtmd", "common" or "shim" came from */
LLC_API const char * llc_symbol_path(const char * library);
/* a name of our libraries that another library defines for the whole process, with its file; empty when there is none */
LLC_API const char * llc_foreign_symbol(void);

/* log ring */

struct llc_log_entry {
    uint64_t seq;     /* running number, from 1 */
    uint64_t thread;  /* llc_thread_id() of the writer */
    int32_t  level;   /* enum ggml_log_level */
    int32_t  length;  /* bytes of text, without a terminator */
};

LLC_API void     llc_log_install(int32_t min_level);
LLC_API void     llc_log_set_level(int32_t min_level);
LLC_API uint64_t llc_log_next(void);                       /* number that the next line will get */
LLC_API uint64_t llc_thread_id(void);
/* copies the first line numbered >= from; false when there is none */
LLC_API bool     llc_log_read(uint64_t from, struct llc_log_entry * entry, char * text, size_t capacity);

/* loading */

/* how well a module fits this processor; 0 for not at all, 1 when it does not say; LLC_UNAVAILABLE when it cannot be
   opened */
LLC_API enum llc_status llc_backend_score(const char * path, int32_t * score);
/* opens a module and registers its back end; LLC_UNAVAILABLE with the reason when it cannot be used. The caller has made
   sure that the file is whole: the loader of Linux crashes on one that was cut off */
LLC_API enum llc_status llc_backend_load(const char * path, struct ggml_backend_reg ** reg);
/* once all are loaded: initialises llama.cpp and puts the CPU behind all others */
LLC_API enum llc_status llc_backend_init(void);
/* the file that a back end is in */
LLC_API const char * llc_backend_path(const struct ggml_backend_reg * reg);
LLC_API enum llc_status llc_device_props(ggml_backend_dev_t device, struct ggml_backend_dev_props * props);
LLC_API enum llc_status llc_model_load(
        const char ** paths, size_t n_paths, const struct llama_model_params * params, struct llama_model ** model);
LLC_API enum llc_status llc_model_save(const struct llama_model * model, const char * path);
LLC_API enum llc_status llc_model_quantize(
        const char * input, const char * output, const llama_model_quantize_params * params);

struct llc_imatrix; /* an importance matrix file, read by upstream's loader */

LLC_API enum llc_status llc_imatrix_load(const char * path, struct llc_imatrix ** imatrix);
LLC_API void         llc_imatrix_free(struct llc_imatrix * imatrix);
LLC_API size_t       llc_imatrix_count(const struct llc_imatrix * imatrix);
/* name of entry index, its mean squared activations in *data; both live as long as the imatrix */
LLC_API const char * llc_imatrix_entry(
        const struct llc_imatrix * imatrix, size_t index, const float ** data, size_t * size);

LLC_API int32_t llc_model_n_expert(const struct llama_model * model);
LLC_API int32_t llc_model_n_devices(const struct llama_model * model);
LLC_API ggml_backend_dev_t llc_model_device(const struct llama_model * model, int32_t index);

/* CPU: reached through the backend registry, so that a loadable CPU backend works as well */

LLC_API enum llc_status llc_threadpool_new(int32_t n_threads, struct ggml_threadpool ** pool);
LLC_API void            llc_threadpool_free(struct ggml_threadpool * pool);

/* fitting to the memory of the devices, without loading weights */

struct llc_fit_extra { /* a second model on the same devices; its context is as large as the first one's */
    const char *                  path;
    struct llama_model_params *   model;
    struct llama_context_params * context;
    bool                          shares_model; /* it is the same file: its weights count once */
};

struct llc_fit_memory {
    ggml_backend_dev_t device; /* NULL: the host */
    int64_t            total;
    int64_t            free;
    size_t             model;
    size_t             context;
    size_t             compute;
};

/* changes what is at its default in *model, and the size of *context if that is 0; split has llama_max_devices() numbers,
   overrides llama_max_tensor_buft_overrides(), margins one for each device; patterns in overrides live forever.
   LLC_FAILED: no way was found, llc_last_error() says why; *outcome is 0 done, 1 no way, 2 an error */
LLC_API enum llc_status llc_fit(
        const char * path, struct llama_model_params * model, struct llama_context_params * context, float * split,
        struct llama_model_tensor_buft_override * overrides, size_t * margins, uint32_t n_ctx_min,
        const struct llc_fit_extra * extra, int32_t * outcome);
/* fills at most capacity rows, the host last; returns the number there are */
LLC_API enum llc_status llc_fit_measure(
        const char * path, const struct llama_model_params * model, const struct llama_context_params * context,
        struct llc_fit_memory * rows, size_t capacity, size_t * count);

/* devices on other machines (RPC) */

LLC_API bool llc_rpc_available(void);
/* asks the server, and hands out its devices, at most capacity; the same ones again while it is not lost */
LLC_API enum llc_status llc_rpc_add_server(
        const char * host, const char * port, int32_t timeout_ms, ggml_backend_dev_t * found, size_t capacity,
        size_t * count);
LLC_API void         llc_rpc_lose_server(const char * host, const char * port, const char * reason);
LLC_API size_t       llc_rpc_devices(ggml_backend_dev_t * found, size_t capacity); /* all that were handed out */
LLC_API const char * llc_rpc_endpoint(ggml_backend_dev_t device); /* "host:port" of its server; NULL: it is none of those */
LLC_API const char * llc_rpc_lost(ggml_backend_dev_t device);     /* why its server is lost; NULL: it is not */
/* serves until it fails; prints to stdout what happens */
LLC_API enum llc_status llc_rpc_serve(
        const char * endpoint, const char * cache_dir, size_t n_threads, size_t n_served, ggml_backend_dev_t * served);
/* context */

LLC_API enum llc_status llc_context_new(
        struct llama_model * model, const struct llama_context_params * params, bool disable_attn_rot,
        struct llama_context ** ctx);
/* for llama_context_params.abort_callback; data points to an int32_t that is non-zero to stop */
LLC_API bool llc_abort_callback(void * data);

struct llc_memory_use {
    ggml_backend_buffer_type_t buft;
    size_t model;
    size_t context;
    size_t compute;
};
/* fills at most capacity rows, returns the number there are */
LLC_API enum llc_status llc_context_memory_use(
        const struct llama_context * ctx, struct llc_memory_use * rows, size_t capacity, size_t * count);

/* checks what upstream would assert on, then decodes; *code is llama_decode's return value */
LLC_API enum llc_status llc_decode(
        struct llama_context * ctx, const struct llama_batch * batch, uint32_t n_outputs_max, int32_t * code);
LLC_API enum llc_status llc_encode(struct llama_context * ctx, const struct llama_batch * batch, int32_t * code);

/* pointers into the context, valid until its next decode */
LLC_API enum llc_status llc_logits(struct llama_context * ctx, int32_t i, float ** row);
LLC_API enum llc_status llc_embeddings(struct llama_context * ctx, int32_t i, float ** row);
LLC_API enum llc_status llc_embeddings_seq(struct llama_context * ctx, llama_seq_id seq_id, float ** row);

/* log-probabilities of row i: of `token` (when >= 0) and of the n_top most likely tokens, best first */
LLC_API enum llc_status llc_logprobs(
        struct llama_context * ctx, int32_t i, llama_token token, float * token_logprob,
        int32_t n_top, llama_token * top_tokens, float * top_logprobs);

/* the same for many rows: targets[k] on row rows[k], n_top best ones of each; n_threads share the rows; a row in which
   a logit is NaN gives NaN */
LLC_API enum llc_status llc_score(
        struct llama_context * ctx, size_t n, const int32_t * rows, const llama_token * targets, int32_t n_threads,
        float * logprobs, int32_t n_top, llama_token * top_tokens, float * top_logprobs);

/* memory */

LLC_API enum llc_status llc_memory_clear(struct llama_context * ctx, bool data);
LLC_API enum llc_status llc_memory_seq_rm(struct llama_context * ctx, llama_seq_id seq, llama_pos p0, llama_pos p1, bool * done);
LLC_API enum llc_status llc_memory_seq_cp(struct llama_context * ctx, llama_seq_id src, llama_seq_id dst, llama_pos p0, llama_pos p1);
LLC_API enum llc_status llc_memory_seq_keep(struct llama_context * ctx, llama_seq_id seq);
LLC_API enum llc_status llc_memory_seq_add(struct llama_context * ctx, llama_seq_id seq, llama_pos p0, llama_pos p1, llama_pos delta);
LLC_API enum llc_status llc_memory_seq_div(struct llama_context * ctx, llama_seq_id seq, llama_pos p0, llama_pos p1, int32_t divisor);

/* state; seq < 0 means the whole context */

LLC_API enum llc_status llc_state_size(struct llama_context * ctx, llama_seq_id seq, uint32_t flags, size_t * size);
LLC_API enum llc_status llc_state_get(
        struct llama_context * ctx, llama_seq_id seq, uint32_t flags, uint8_t * data, size_t capacity, size_t * written);
LLC_API enum llc_status llc_state_set(
        struct llama_context * ctx, llama_seq_id seq, uint32_t flags, const uint8_t * data, size_t size, size_t * read);
LLC_API enum llc_status llc_state_save_file(
        struct llama_context * ctx, llama_seq_id seq, const char * path, const llama_token * tokens, size_t n_tokens);

/* adapters */

LLC_API enum llc_status llc_adapter_lora_load(
        struct llama_model * model, const char * path, struct llama_adapter_lora ** adapter);
LLC_API enum llc_status llc_set_adapters_lora(
        struct llama_context * ctx, struct llama_adapter_lora ** adapters, size_t n_adapters, float * scales);
LLC_API enum llc_status llc_set_adapter_cvec(
        struct llama_context * ctx, const float * data, size_t n_floats, int32_t n_embd, int32_t first, int32_t last);

/* vocab; *count is upstream's return value (negative: the room that is needed) */

LLC_API enum llc_status llc_tokenize(
        const struct llama_vocab * vocab, const char * text, int32_t length,
        llama_token * tokens, int32_t capacity, bool add_special, bool parse_special, int32_t * count);
LLC_API enum llc_status llc_detokenize(
        const struct llama_vocab * vocab, const llama_token * tokens, int32_t n_tokens,
        char * text, int32_t capacity, bool remove_special, bool unparse_special, int32_t * count);
LLC_API enum llc_status llc_token_to_piece(
        const struct llama_vocab * vocab, llama_token token, char * text, int32_t capacity, bool special, int32_t * count);

/* sampling */

LLC_API enum llc_status llc_sample(struct llama_sampler * sampler, struct llama_context * ctx, int32_t i, llama_token * token);
/* every row is sampled with its own sampler; stops at the first failure, *n_done says how many were done; where n_first is
   above 0, the sampler is shown that many of the most likely tokens only, because it would drop all others; they are
   looked for on the n_threads threads of the pool */
LLC_API enum llc_status llc_sample_batch(
        struct llama_context * ctx, struct ggml_threadpool * pool, int32_t n_threads, size_t n,
        struct llama_sampler ** samplers, const int32_t * rows, const int32_t * n_first, llama_token * tokens,
        size_t * n_done);
LLC_API enum llc_status llc_sampler_apply(struct llama_sampler * sampler, llama_token_data_array * candidates);
LLC_API enum llc_status llc_sampler_accept(struct llama_sampler * sampler, llama_token token);
LLC_API enum llc_status llc_sampler_reset(struct llama_sampler * sampler);
LLC_API enum llc_status llc_sampler_clone(const struct llama_sampler * sampler, struct llama_sampler ** clone);
LLC_API enum llc_status llc_set_sampler(struct llama_context * ctx, llama_seq_id seq, struct llama_sampler * chain, bool * on_backend);

/* forbids the tokens that end a text until that many tokens were accepted */
LLC_API enum llc_status llc_sampler_min_tokens(
        int32_t wanted, const llama_token * ends, size_t n_ends, struct llama_sampler ** sampler);

/* inner values: next-n embeddings, layer inputs, what a sampler in the graph computed */

LLC_API enum llc_status llc_set_embeddings_nextn(struct llama_context * ctx, bool enabled, bool masked);
LLC_API enum llc_status llc_embeddings_nextn(struct llama_context * ctx, int32_t i, float ** row);
LLC_API enum llc_status llc_set_nextn_layer_offset(struct llama_context * ctx, int32_t offset);
LLC_API enum llc_status llc_set_embeddings_layer_inp(struct llama_context * ctx, int32_t layer, bool enabled);
LLC_API enum llc_status llc_embeddings_layer_inp(struct llama_context * ctx, int32_t layer, float ** rows);

struct llc_sampled {
    llama_token         token;      /* LLAMA_TOKEN_NULL when none was chosen */
    uint32_t            n;          /* length of the arrays; each is NULL when it was not computed */
    const llama_token * candidates;
    const float *       logits;
    const float *       probs;
};
LLC_API enum llc_status llc_sampled(struct llama_context * ctx, int32_t i, struct llc_sampled * result);

/* capture of named graph tensors, for llama_context_params.cb_eval; native code only */

struct llc_capture;

struct llc_captured {
    const char *  name;
    const float * data;   /* valid until the capture is begun, cleared or freed */
    int64_t       shape[4]; /* as ggml has it: innermost first */
};

LLC_API enum llc_status llc_capture_new(
        const char ** names, size_t n_names, const char ** prefixes, size_t n_prefixes, size_t max_bytes,
        struct llc_capture ** capture);
LLC_API void   llc_capture_free(struct llc_capture * capture);
LLC_API void   llc_capture_begin(struct llc_capture * capture); /* forgets the decode before */
LLC_API size_t llc_capture_count(const struct llc_capture * capture);
LLC_API bool   llc_capture_get(const struct llc_capture * capture, size_t index, struct llc_captured * result);
/* what stopped the capture (too large, a type that is no number), or an empty string */
LLC_API const char * llc_capture_error(const struct llc_capture * capture);
LLC_API bool   llc_capture_callback(struct ggml_tensor * tensor, bool ask, void * capture);

/* taps: reading and changing layer outputs while a context computes, by row and sequence of the batch. A tap belongs to
   one context and is used by nobody while that computes; it is freed after the context. Off, it costs nothing. */

struct llc_tap;

enum llc_tap_rows {
    LLC_TAP_ALL   = 0, /* each row of the last decode */
    LLC_TAP_LAST  = 1, /* one row per sequence, of all decodes since capture or restart */
    LLC_TAP_FIRST = 2,
    LLC_TAP_MEAN  = 3,
};

LLC_API enum llc_status llc_tap_new(size_t max_bytes, struct llc_tap ** tap);
LLC_API void            llc_tap_free(struct llc_tap * tap);
/* finds the layers whose output the context's graph names; the context has no other evaluation callback */
LLC_API enum llc_status llc_tap_attach(struct llc_tap * tap, struct llama_context * ctx);
/* fills at most capacity numbers, ascending, returns how many there are */
LLC_API size_t          llc_tap_layers(const struct llc_tap * tap, int32_t * layers, size_t capacity);
/* which layers are kept from the next decode on; none ends it */
LLC_API enum llc_status llc_tap_capture(
        struct llc_tap * tap, const int32_t * layers, size_t n_layers, enum llc_tap_rows rows);
/* what is added to the rows of a sequence from the next decode on, n_embd numbers for each layer; none ends it */
LLC_API enum llc_status llc_tap_steer(
        struct llc_tap * tap, llama_seq_id seq, const int32_t * layers, size_t n_layers, const float * data);
/* before a decode: forgets the rows of the one before, checks the batch (NULL: unknown) against max_bytes and steering */
LLC_API enum llc_status llc_tap_begin(struct llc_tap * tap, const struct llama_batch * batch);
/* after a decode that succeeded: what went wrong with the tap, or an empty string */
LLC_API const char *    llc_tap_error(struct llc_tap * tap);
/* forgets what was kept of a sequence, of all when negative */
LLC_API void            llc_tap_restart(struct llc_tap * tap, llama_seq_id seq);
LLC_API enum llc_status llc_tap_count(const struct llc_tap * tap, int32_t layer, size_t * n_rows);
/* all rows in the order of the batch, pooled ones in that of their sequences; the arrays have room for llc_tap_count() */
LLC_API enum llc_status llc_tap_read(
        const struct llc_tap * tap, int32_t layer, float * values, int32_t * rows, llama_seq_id * seqs,
        llama_pos * positions);

/* speculation: upstream's common_speculative. A session belongs to a target context and, unless it only looks up n-grams,
   a draft context; both outlive it, and neither computes during its calls. The draft memory is trimmed by the caller: back
   to pos0 after a draft and before llc_spec_process(), to pos0 + 1 + n_accepted after llc_spec_accept(); where it is not,
   the next call says so. With `trims` the session does it; a sequence whose draft memory ends too early is not drafted
   for, and begins anew with the next batch. An MTP session that trims computes what was verified with the next draft. */

struct llc_spec;

struct llc_spec_config {
    struct llama_context * ctx_tgt;
    struct llama_context * ctx_dft;   /* NULL for n-grams */
    const char **          types;     /* upstream's names, such as "draft-mtp"; their order is upstream's */
    size_t                 n_types;
    uint32_t               n_seq;
    int32_t                n_max;     /* of types with a draft context */
    int32_t                n_min;
    float                  p_min;
    bool                   backend_sampling;
    bool                   trims;
    int32_t                ngram_size_n;  /* of ngram-simple, ngram-map-k and ngram-map-k4v */
    int32_t                ngram_size_m;
    int32_t                ngram_min_hits;
    int32_t                ngram_mod_n_match;
    int32_t                ngram_mod_n_min;
    int32_t                ngram_mod_n_max;
    const char *           lookup_cache_static;  /* files of ngram-cache, or NULL */
    const char *           lookup_cache_dynamic;
    double                 synth_length;  /* synthetic acceptance, for benchmarks: mean length (-1 for none) or rates */
    const double *         synth_rates;
    size_t                 n_synth_rates;
    uint32_t               synth_seed;
};

struct llc_spec_stats {
    uint64_t n_begin;
    uint64_t n_process;
    uint64_t n_draft;           /* sequences that were asked for a draft */
    uint64_t n_accept;
    uint64_t n_drafts;          /* drafts that were not empty */
    uint64_t n_drafts_accepted; /* of which a token was accepted */
    uint64_t n_draft_tokens;
    uint64_t n_accepted_tokens;
    int64_t  t_begin_us;
    int64_t  t_process_us;
    int64_t  t_draft_us;
    int64_t  t_accept_us;
};

LLC_API struct llc_spec_config llc_spec_default_config(void);
LLC_API enum llc_status llc_spec_new(const struct llc_spec_config * config, struct llc_spec ** spec);
LLC_API void            llc_spec_free(struct llc_spec * spec);
/* most tokens of a draft: upstream's, and no more than a recurrent target can take back */
LLC_API int32_t         llc_spec_n_max(const struct llc_spec * spec);
/* whether both contexts have one memory: what is done to one is done to both */
LLC_API bool            llc_spec_shares_memory(const struct llc_spec * spec);
/* whether the target's next-n embeddings are read */
LLC_API bool            llc_spec_need_embd_nextn(const struct llc_spec * spec);
/* a text in a sequence; a proposal is forgotten */
LLC_API enum llc_status llc_spec_begin(struct llc_spec * spec, llama_seq_id seq, const llama_token * tokens, size_t n_tokens);
/* the first n_rows rows of the batch that the target has just decoded */
LLC_API enum llc_status llc_spec_process(struct llc_spec * spec, const struct llama_batch * batch, int32_t n_rows);
/* drafts of n sequences in one go: id_last[k] is the token at position pos0[k], not decoded yet; at most n_max[k] tokens
   (0 for none) go to out_tokens[k * stride ...], their number to out_counts[k] */
LLC_API enum llc_status llc_spec_draft(
        struct llc_spec * spec, size_t n, const llama_seq_id * seqs, const llama_pos * pos0, const llama_token * id_last,
        const int32_t * n_max, llama_token * out_tokens, size_t stride, int32_t * out_counts);
/* how many tokens of the proposal were right; 0 before it was processed gives it up */
LLC_API enum llc_status llc_spec_accept(struct llc_spec * spec, llama_seq_id seq, int32_t n_accepted);
/* computes what of the sequence waits for the next draft, before its draft memory is copied, moved or saved */
LLC_API enum llc_status llc_spec_flush(struct llc_spec * spec, llama_seq_id seq);
/* length of the proposal that was not answered yet, 0 for none */
LLC_API int32_t         llc_spec_pending(const struct llc_spec * spec, llama_seq_id seq);
/* state of a sequence that its memory does not have: EAGLE-3 on recurrent targets, LLC_UNAVAILABLE for all else; *size is
   the size that there is, data may be NULL */
LLC_API enum llc_status llc_spec_state_get(
        struct llc_spec * spec, llama_seq_id seq, uint8_t * data, size_t capacity, size_t * size);
LLC_API enum llc_status llc_spec_state_set(struct llc_spec * spec, llama_seq_id seq, const uint8_t * data, size_t size);
/* of all types together; upstream does not tell which of them made a draft */
LLC_API void            llc_spec_get_stats(const struct llc_spec * spec, struct llc_spec_stats * stats);
/* how often a token was drafted and accepted at each place of a draft; fills at most capacity places, returns n_max */
LLC_API int32_t         llc_spec_positions(
        const struct llc_spec * spec, int32_t capacity, uint64_t * drafted, uint64_t * accepted);
LLC_API void            llc_spec_reset_stats(struct llc_spec * spec);

/* the types that a file is made for, separated by commas, as upstream tells them; empty for none */
LLC_API enum llc_status llc_spec_types_from_gguf(const char * path, char ** types);
/* all names, separated by commas */
LLC_API const char *    llc_spec_all_types(void);
/* by upstream's rules for two models of one vocabulary; *difference is NULL when there is none */
LLC_API enum llc_status llc_spec_compatible(
        const struct llama_model * target, const struct llama_model * draft, char ** difference);

/* as llc_sample_batch for groups of rows: group k starts at rows[k], n_draft[k] tokens of drafts[k * stride ...] are in the
   rows behind; a row is sampled as long as the tokens before it were those of the draft. n_tokens[k] tokens go to
   tokens[k * (stride + 1) ...]. A group is `alive` until it ends. At the first failure *failed is its group, which is not
   alive any more: call again for the rest. With `synthetic` a token of the draft is taken at random, at the rates of that
   session, and the sampler goes by what it would have chosen; NULL for none. */
LLC_API enum llc_status llc_sample_drafts(
        struct llama_context * ctx, struct ggml_threadpool * pool, int32_t n_threads, size_t n,
        struct llama_sampler ** samplers, const int32_t * rows, const int32_t * n_first, const llama_token * drafts,
        size_t stride, const int32_t * n_draft, struct llc_spec * synthetic, llama_token * tokens, int32_t * n_tokens,
        bool * alive, size_t * failed);

/* grammar */

/* GBNF checked with its error in llc_last_error(); lazy when n_patterns or n_tokens is not 0 */
LLC_API enum llc_status llc_sampler_grammar(
        const struct llama_vocab * vocab, const char * gbnf, const char * root,
        const char ** patterns, size_t n_patterns, const llama_token * tokens, size_t n_tokens,
        struct llama_sampler ** sampler);
/* a grammar and a chain as one sampler, which owns both: the chain is tried without the grammar first. The grammar takes
   the opening of the reply, which the prompt has. With `waits` it sees nothing while a reasoning budget, the first
   member of the chain, is inside a thought; `start` opens one and may come before all (LLAMA_TOKEN_NULL for none); with
   `replay` the grammar is shown the tag that ended a thought. When it fails, nothing was taken over. */
LLC_API enum llc_status llc_sampler_constrained(
        struct llama_sampler * grammar, struct llama_sampler * chain, const llama_token * opening, size_t n_opening,
        bool waits, bool replay, llama_token start, struct llama_sampler ** sampler);
/* part 0 is the grammar, part 1 the chain */
LLC_API struct llama_sampler * llc_sampler_constrained_get(const struct llama_sampler * sampler, int32_t part);

/* a budget for thoughts (upstream: common_reasoning_budget_init); n_tokens < 0 for none; opening: what the prompt has of
   the reply */
LLC_API enum llc_status llc_sampler_reasoning_budget(
        const struct llama_vocab * vocab, const llama_token * start, size_t n_start, const llama_token * ends,
        const size_t * end_lengths, size_t n_ends, const llama_token * forced, size_t n_forced, int32_t n_tokens,
        const llama_token * opening, size_t n_opening, struct llama_sampler ** sampler);
/* enum common_reasoning_budget_state of such a sampler, -1 for any other */
LLC_API int32_t llc_sampler_reasoning_state(const struct llama_sampler * sampler);

LLC_API enum llc_status llc_json_schema_to_gbnf(const char * json_schema, char ** gbnf);

/* chat: upstream's common_chat; JSON is text in UTF-8 */

enum {
    LLC_CHAT_MAX_REPLY  = 16777216, /* bytes */
    LLC_CHAT_MAX_MACROS = 100,
};

struct llc_chat_templates; /* what a template source means; may be used by several threads at once */
struct llc_chat_parser;    /* how replies to one kind of request are read; never changes */
struct llc_chat_reply;     /* a reply that is being read; keeps what it needs of the parser */

/* the caller makes sure that at most LLC_CHAT_MAX_MACROS calls of macros are open at a time */
LLC_API enum llc_status llc_chat_templates_new(
        const char * source, const char * bos_token, const char * eos_token, struct llc_chat_templates ** templates);
LLC_API void            llc_chat_templates_free(struct llc_chat_templates * templates);
/* {"source": as upstream renders it, "caps": {name: bool}} */
LLC_API enum llc_status llc_chat_templates_describe(const struct llc_chat_templates * templates, char ** description);
/* inputs: the fields of common_chat_templates_inputs; params: those of common_chat_params */
LLC_API enum llc_status llc_chat_apply(
        const struct llc_chat_templates * templates, const char * inputs, char ** params,
        struct llc_chat_parser ** parser);
LLC_API void            llc_chat_parser_free(struct llc_chat_parser * parser);

LLC_API enum llc_status llc_chat_reply_new(const struct llc_chat_parser * parser, struct llc_chat_reply ** reply);
LLC_API void            llc_chat_reply_free(struct llc_chat_reply * reply);
/* more of the reply, or with `last` its end; *kind is 1 when all of the text is content, 2 when all of it is reasoning;
   else *pieces lists what is new (null for nothing): {"content"}, {"reasoning_content"} or {"index", "id", "name",
   "arguments"} of a tool call */
LLC_API enum llc_status llc_chat_reply_push(
        struct llc_chat_reply * reply, const char * text, size_t length, bool last, int32_t * kind, char ** pieces);
/* what the pieces so far add up to: {"content", "reasoning_content", "tool_calls"} */
LLC_API enum llc_status llc_chat_reply_message(const struct llc_chat_reply * reply, char ** message);

/* multimodal */

struct mtmd_bitmap;
struct mtmd_context;
struct mtmd_context_params;
struct mtmd_helper_video;
struct mtmd_helper_video_init_params;
struct mtmd_input_chunk;
struct mtmd_input_chunks;
struct mtmd_input_part;

LLC_API enum llc_status llc_mtmd_load(
        const char * path, const struct llama_model * model, const struct mtmd_context_params * params,
        struct mtmd_context ** mtmd);
LLC_API enum llc_status llc_mtmd_caps(const char * path, bool * vision, bool * audio);

LLC_API enum llc_status llc_mtmd_bitmap_image(
        uint32_t width, uint32_t height, const uint8_t * rgb, const char * id, bool mergeable,
        struct mtmd_bitmap ** bitmap);
LLC_API enum llc_status llc_mtmd_bitmap_audio(
        size_t n_samples, const float * samples, const char * id, struct mtmd_bitmap ** bitmap);
/* an image or audio file in memory; ffmpeg_dir as for upstream's video parameters, it is used for WebP images */
LLC_API enum llc_status llc_mtmd_bitmap_read(
        const struct mtmd_context * mtmd, const uint8_t * data, size_t size, bool placeholder, const char * ffmpeg_dir,
        struct mtmd_bitmap ** bitmap);

LLC_API enum llc_status llc_mtmd_tokenize(
        const struct mtmd_context * mtmd, const struct mtmd_input_part ** parts, size_t n_parts, bool add_special,
        struct mtmd_input_chunks ** chunks);
/* encodes media chunks, as many at a time as upstream batches; embd has room for all of their rows, in their order */
LLC_API enum llc_status llc_mtmd_encode(
        struct mtmd_context * mtmd, const struct mtmd_input_chunk ** chunks, size_t n_chunks, size_t n_embd,
        float * embd);
/* the caller has checked every number; embd is null for text; *code is llama_process's return value */
LLC_API enum llc_status llc_mtmd_decode(
        struct mtmd_context * mtmd, struct llama_context * ctx, const struct mtmd_input_chunk * chunk,
        const float * embd, llama_pos n_past, llama_seq_id seq, int32_t n_batch, bool logits_last,
        llama_pos * new_n_past, int32_t * code);

/* of a file, or of bytes when path is null */
LLC_API enum llc_status llc_mtmd_video_open(
        const struct mtmd_context * mtmd, const char * path, const uint8_t * data, size_t size,
        const struct mtmd_helper_video_init_params * params, struct mtmd_helper_video ** video);
/* the next frame or text; both null at the end; text is freed with llc_string_free() */
LLC_API enum llc_status llc_mtmd_video_next(struct mtmd_helper_video * video, struct mtmd_bitmap ** bitmap, char ** text);

/* cdef: end */

#ifdef __cplusplus
}
#endif

#endif // LLAMACORE_SHIM_H
