#include "guard.h"

#include <exception>

#ifndef _WIN32
#    include <pthread.h>
#endif

using llc::guarded;

namespace {

// Some tokenizers split text with std::regex, which recurses once per character: long text would overflow the caller's
// stack. Longer text is therefore tokenised on a thread whose (lazily committed) stack grows with it.
constexpr int32_t LONG_TEXT_BYTES      = 16 * 1024;
constexpr size_t  STACK_BYTES_PER_BYTE = 4096;

template <typename Body> void on_large_stack(size_t stack_bytes, Body & body) {
#ifdef _WIN32
    (void) stack_bytes;
    body();
#else
    struct job {
        Body *             body;
        std::exception_ptr error;
    } work{&body, nullptr};

    pthread_attr_t attr;
    pthread_t      thread;
    bool           started = false;
    if (pthread_attr_init(&attr) == 0) {
        started = pthread_attr_setstacksize(&attr, stack_bytes) == 0 &&
                  pthread_create(&thread, &attr, [](void * data) -> void * {
                      auto * w = static_cast<job *>(data);
                      llc::guard_scope scope; // an assert on this thread must unwind as well
                      try {
                          (*w->body)();
                      } catch (...) {
                          w->error = std::current_exception();
                      }
                      return nullptr;
                  }, &work) == 0;
        pthread_attr_destroy(&attr);
    }
    if (!started) {
        throw std::bad_alloc(); // no room for the stack
    }
    pthread_join(thread, nullptr);
    if (work.error) {
        std::rethrow_exception(work.error);
    }
#endif
}

} // namespace

enum llc_status llc_tokenize(
        const struct llama_vocab * vocab, const char * text, int32_t length,
        llama_token * tokens, int32_t capacity, bool add_special, bool parse_special, int32_t * count) {
    *count = 0;
    return guarded([&] {
        auto body = [&] {
            *count = llama_tokenize(vocab, text, length, tokens, capacity, add_special, parse_special);
        };
        if (length > LONG_TEXT_BYTES) {
            on_large_stack(static_cast<size_t>(length) * STACK_BYTES_PER_BYTE, body);
        } else {
            body();
        }
        return LLC_OK;
    });
}

enum llc_status llc_detokenize(
        const struct llama_vocab * vocab, const llama_token * tokens, int32_t n_tokens,
        char * text, int32_t capacity, bool remove_special, bool unparse_special, int32_t * count) {
    *count = 0;
    return guarded([&] {
        *count = llama_detokenize(vocab, tokens, n_tokens, text, capacity, remove_special, unparse_special);
        return LLC_OK;
    });
}

enum llc_status llc_token_to_piece(
        const struct llama_vocab * vocab, llama_token token, char * text, int32_t capacity, bool special, int32_t * count) {
    *count = 0;
    return guarded([&] {
        *count = llama_token_to_piece(vocab, token, text, capacity, 0, special);
        return LLC_OK;
    });
}
