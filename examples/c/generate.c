/* A text continued by the most likely tokens, in C, with llama.h and the shim of llamacore.

       cc generate.c $(pkg-config --cflags --libs llamacore) -o generate
       ./generate model.gguf "Once upon a time" 32

   llc_ functions are twins of llama.cpp's own that report a failure instead of ending the process. */
#include <llama.h>
#include <llamacore_shim.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(const char * what) {
    fprintf(stderr, "%s: %s\n", what, llc_last_error());
    struct llc_log_entry line;
    char                 text[1024];
    for (uint64_t seq = 0; llc_log_read(seq, &line, text, sizeof(text)); seq = line.seq + 1) {
        fprintf(stderr, "%.*s\n", (int) line.length, text);
    }
    return 1;
}

/* Opens the back ends that lie as modules in the folder of the libraries: of those for the CPU the one that fits it
   best. Others may be linked in. */
static enum llc_status load_backends(void) {
    char         folder[4096] = ".";
    const char * path         = llc_symbol_path("shim");
    const char * slash        = strrchr(path, '/');
    if (slash != NULL && (size_t) (slash - path) < sizeof(folder)) {
        memcpy(folder, path, (size_t) (slash - path));
        folder[slash - path] = '\0';
    }
    ggml_backend_load_all_from_path(folder);
    return llc_backend_init();
}

static llama_token most_likely(const float * logits, int32_t n_vocab) {
    llama_token best = 0;
    for (llama_token token = 1; token < n_vocab; token++) {
        if (logits[token] > logits[best]) {
            best = token;
        }
    }
    return best;
}

static int generate(struct llama_context * ctx, const char * prompt, int32_t n_predict) {
    const struct llama_vocab * vocab   = llama_model_get_vocab(llama_get_model(ctx));
    const int32_t              n_vocab = llama_vocab_n_tokens(vocab);
    const int32_t              n_ctx   = (int32_t) llama_n_ctx(ctx);

    llama_token * tokens = malloc((size_t) n_ctx * sizeof(*tokens));
    if (tokens == NULL) {
        fprintf(stderr, "out of memory\n");
        return 1;
    }
    int32_t count = llama_tokenize(vocab, prompt, (int32_t) strlen(prompt), tokens, n_ctx, true, false);
    if (count <= 0 || count + n_predict > n_ctx) {
        fprintf(stderr, "the prompt and %d tokens do not fit into a context of %d\n", n_predict, n_ctx);
        free(tokens);
        return 1;
    }

    int result = 0;
    printf("%s", prompt);
    for (int32_t done = 0; done < n_predict; done++) {
        struct llama_batch batch  = llama_batch_get_one(tokens, count);
        int32_t            code   = 0;
        float *            logits = NULL;
        if (llc_decode(ctx, &batch, 1, &code) != LLC_OK || code != 0 || llc_logits(ctx, -1, &logits) != LLC_OK) {
            result = fail("decoding failed");
            break;
        }
        tokens[0] = most_likely(logits, n_vocab);
        count     = 1;
        if (llama_vocab_is_eog(vocab, tokens[0])) {
            break;
        }
        char          piece[256];
        const int32_t length = llama_token_to_piece(vocab, tokens[0], piece, sizeof(piece), 0, false);
        fwrite(piece, 1, length > 0 ? (size_t) length : 0, stdout);
    }
    printf("\n");
    free(tokens);
    return result;
}

int main(int argc, char ** argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL.gguf [PROMPT] [TOKENS]\n", argv[0]);
        return 64;
    }
    const char * prompt    = argc > 2 ? argv[2] : "Once upon a time";
    const int    n_predict = argc > 3 ? atoi(argv[3]) : 32;

    llc_log_install(GGML_LOG_LEVEL_ERROR); /* llama.cpp's messages are kept for fail() instead of printed */
    fprintf(stderr, "llama.cpp %s (%s)\n", llc_build_version(), llc_build_commit());
    if (load_backends() != LLC_OK) {
        return fail("no back end can be used");
    }

    struct llama_model_params model_params = llama_model_default_params();
    struct llama_model *      model        = NULL;
    if (llc_model_load((const char *[]) { argv[1] }, 1, &model_params, &model) != LLC_OK) {
        return fail("the model could not be loaded");
    }
    struct llama_context_params params = llama_context_default_params();
    struct llama_context *      ctx    = NULL;
    params.n_ctx     = 512;
    params.n_batch   = 512;
    params.n_threads = params.n_threads_batch = 1;
    int result = llc_context_new(model, &params, false, &ctx) == LLC_OK ? generate(ctx, prompt, n_predict)
                                                                          : fail("no context could be made");
    llama_free(ctx);
    llama_model_free(model);
    return result;
}
