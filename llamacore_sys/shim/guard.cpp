#include "guard.h"

#include "ggml.h"
#include "log_ring.h"

#include <cstdlib>
#include <mutex>

namespace llc {

namespace {

thread_local std::string last_error;
thread_local int         depth       = 0;
thread_local bool        abort_flag  = false;

void on_ggml_abort(const char * message) {
    log_line(GGML_LOG_LEVEL_ERROR, message);
    if (depth > 0) {
        abort_flag = true;
        set_last_error(message);
        throw ggml_aborted(message); // ggml is compiled with -fexceptions: this unwinds through its C frames
    }
    // not one of our calls (a worker thread of the compute pool, or foreign code): upstream aborts after we return
}

} // namespace

guard_scope::guard_scope() {
    static std::once_flag installed;
    std::call_once(installed, [] { ggml_set_abort_callback(on_ggml_abort); });
    if (depth++ == 0) {
        abort_flag = false;
        last_error.clear();
    }
}

guard_scope::~guard_scope() {
    --depth;
}

void set_last_error(const std::string & message) noexcept {
    try {
        last_error = message;
    } catch (...) {
        last_error.clear();
    }
}

bool abort_seen() noexcept {
    return abort_flag;
}

enum llc_status fail(enum llc_status status, const char * message) noexcept {
    try {
        last_error = message;
    } catch (...) {
        last_error.clear();
    }
    return status;
}

} // namespace llc

const char * llc_last_error(void) {
    return llc::last_error.c_str();
}

void llc_string_free(char * text) {
    std::free(text);
}

enum llc_status llc_test_throw(int32_t kind, const char * message) {
    return llc::guarded([&]() -> enum llc_status {
        switch (kind) {
            case 0: throw std::runtime_error(message);
            case 1: throw std::bad_alloc();
            case 2: GGML_ABORT("%s", message);
            default: throw static_cast<int>(kind);
        }
    });
}
