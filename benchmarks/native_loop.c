/* The same work as `Llama.stream` does, in C: what the Python layer is measured against.
 *
 *     native_loop LIB_DIR MODEL PROMPT N_PREDICT N_CTX N_THREADS TEMPERATURE SEED
 *
 * PROMPT is a file of token ids. The model is loaded and one token is decoded; then each line on standard input starts
 * one generation, told of on standard output in one line of JSON. At the end of the input it exits. */
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "llama.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

typedef struct ggml_threadpool * (*threadpool_new_t)(struct ggml_threadpool_params * params);
typedef void (*threadpool_free_t)(struct ggml_threadpool * pool);

static void fail(const char * what) {
    fprintf(stderr, "native_loop: %s\n", what);
    exit(1);
}

static void no_log(enum ggml_log_level level, const char * text, void * data) {
    (void) level, (void) text, (void) data;
}

static double now_ms(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

/* Not getrusage where it can be helped: after an exec it still holds the peak of the process before. */
static long peak_rss_bytes(void) {
    FILE * file = fopen("/proc/self/status", "r");
    if (file != NULL) {
        char line[256];
        long kib = 0;
        while (fgets(line, sizeof(line), file) != NULL && sscanf(line, "VmHWM: %ld", &kib) != 1) {
        }
        fclose(file);
        return kib * 1024;
    }
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
#ifdef __APPLE__
    return usage.ru_maxrss;
#else
    return usage.ru_maxrss * 1024;
#endif
}

/* Through the registry, so that a loadable CPU back end serves as well. */
static void * cpu_function(const char * name) {
    ggml_backend_reg_t cpu = ggml_backend_dev_backend_reg(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU));
    return ggml_backend_reg_get_proc_address(cpu, name);
}

static llama_token * read_tokens(const char * path, int * count) {
    FILE * file = fopen(path, "r");
    if (file == NULL) {
        fail("the prompt cannot be read");
    }
    int           capacity = 1024;
    llama_token * tokens   = malloc(capacity * sizeof(*tokens));
    for (*count = 0; fscanf(file, "%d", &tokens[*count]) == 1;) {
        if (++*count == capacity) {
            tokens = realloc(tokens, (capacity *= 2) * sizeof(*tokens));
        }
    }
    fclose(file);
    return tokens;
}

/* The chain of upstream's common_sampler_init, with its defaults but for the temperature. */
static struct llama_sampler * make_sampler(const struct llama_vocab * vocab, float temperature, uint32_t seed) {
    struct llama_sampler_chain_params params = llama_sampler_chain_default_params();
    params.no_perf = false;
    struct llama_sampler * members[] = {
        llama_sampler_init_penalties(llama_vocab_n_tokens(vocab), 64, 1.0f, 0.0f, 0.0f),
        llama_sampler_init_dry(vocab, 0.0f, 1.75f, 2, 64, NULL, 0),
        llama_sampler_init_top_n_sigma(-1.0f),
        llama_sampler_init_top_k(40),
        llama_sampler_init_typical(1.0f, 0),
        llama_sampler_init_top_p(0.95f, 0),
        llama_sampler_init_min_p(0.05f, 0),
        llama_sampler_init_xtc(0.0f, 0.1f, 0, seed),
        llama_sampler_init_temp_ext(temperature, 0.0f, 1.0f),
        llama_sampler_init_dist(seed),
    };
    struct llama_sampler * chain = llama_sampler_chain_init(params);
    for (size_t i = 0; i < sizeof(members) / sizeof(*members); ++i) {
        llama_sampler_chain_add(chain, members[i]);
    }
    return chain;
}

static void add(struct llama_batch * batch, llama_token token, llama_pos pos, bool output) {
    const int row        = batch->n_tokens++;
    batch->token[row]    = token;
    batch->pos[row]      = pos;
    batch->n_seq_id[row] = 1;
    batch->seq_id[row][0] = 0;
    batch->logits[row]   = output;
}

static void decode(struct llama_context * ctx, struct llama_batch batch) {
    if (llama_decode(ctx, batch) != 0) {
        fail("llama_decode failed");
    }
}

int main(int argc, char ** argv) {
    if (argc != 9) {
        fail("usage: native_loop LIB_DIR MODEL PROMPT N_PREDICT N_CTX N_THREADS TEMPERATURE SEED");
    }
    const int      n_predict = atoi(argv[4]), n_threads = atoi(argv[6]);
    const float    temperature = (float) atof(argv[7]);
    const uint32_t seed        = (uint32_t) strtoul(argv[8], NULL, 10);
    int            n_prompt;
    llama_token *  prompt = read_tokens(argv[3], &n_prompt);

    llama_log_set(no_log, NULL);
    if (ggml_backend_reg_count() == 0) {
        ggml_backend_load_all_from_path(argv[1]);
    }
    llama_backend_init();
    struct llama_model * model = llama_model_load_from_file(argv[2], llama_model_default_params());
    if (model == NULL) {
        fail("the model cannot be loaded");
    }
    const struct llama_vocab *  vocab  = llama_model_get_vocab(model);
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx           = (uint32_t) atoi(argv[5]);
    params.n_outputs_max   = 1;
    params.n_threads       = n_threads;
    params.n_threads_batch = n_threads;
    struct llama_context * ctx = llama_init_from_model(model, params);
    if (ctx == NULL) {
        fail("the context cannot be created");
    }
    struct ggml_threadpool_params pool_params = ggml_threadpool_params_default(n_threads);
    struct ggml_threadpool *      pool = ((threadpool_new_t) cpu_function("ggml_threadpool_new"))(&pool_params);
    llama_attach_threadpool(ctx, pool, pool);

    const int step = (int) (llama_n_batch(ctx) < llama_n_ubatch(ctx) ? llama_n_batch(ctx) : llama_n_ubatch(ctx));
    struct llama_batch batch  = llama_batch_init(step, 0, 1);
    llama_token *      tokens = malloc(n_predict * sizeof(*tokens));
    char *             text   = malloc(n_predict * 256);
    llama_memory_t     memory = llama_get_memory(ctx);

    add(&batch, prompt[0], 0, true); /* warm up */
    decode(ctx, batch);
    puts("ready");
    fflush(stdout);

    char line[256];
    while (fgets(line, sizeof(line), stdin) != NULL) {
        const double started = now_ms(CLOCK_MONOTONIC), cpu = now_ms(CLOCK_PROCESS_CPUTIME_ID);
        struct llama_sampler * sampler = make_sampler(vocab, temperature, seed);
        llama_memory_clear(memory, false);
        for (int start = 0; start < n_prompt; start += step) {
            batch.n_tokens = 0;
            for (int i = start; i < n_prompt && i < start + step; ++i) {
                add(&batch, prompt[i], i, i == n_prompt - 1);
            }
            decode(ctx, batch);
        }
        llama_token  token = llama_sampler_sample(sampler, ctx, -1);
        const double first = now_ms(CLOCK_MONOTONIC);

        int    count = 0;
        size_t bytes = 0;
        for (llama_pos pos = n_prompt; !llama_vocab_is_eog(vocab, token); ++pos) {
            tokens[count++] = token;
            const int length = llama_token_to_piece(vocab, token, text + bytes, 256, 0, false);
            bytes += length > 0 ? (size_t) length : 0;
            if (count == n_predict) {
                break;
            }
            batch.n_tokens = 0;
            add(&batch, token, pos, true);
            decode(ctx, batch);
            token = llama_sampler_sample(sampler, ctx, -1);
        }
        const double ended = now_ms(CLOCK_MONOTONIC);
        llama_sampler_free(sampler);

        printf("{\"prompt_ms\": %.4f, \"predicted_ms\": %.4f, \"first_text_ms\": %.4f, \"cpu_ms\": %.4f, "
               "\"peak_rss_bytes\": %ld, \"tokens\": [",
               first - started, ended - first, first - started,
               now_ms(CLOCK_PROCESS_CPUTIME_ID) - cpu, peak_rss_bytes());
        for (int i = 0; i < count; ++i) {
            printf(i ? ", %d" : "%d", tokens[i]);
        }
        puts("]}");
        fflush(stdout);
    }

    llama_batch_free(batch);
    llama_free(ctx);
    ((threadpool_free_t) cpu_function("ggml_threadpool_free"))(pool);
    llama_model_free(model);
    free(text);
    free(tokens);
    free(prompt);
    return 0;
}
