#include "log_ring.h"

#include "common.h"
#include "guard.h"
#include "log.h"
#include "mtmd-helper.h"
#include "mtmd.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace {

struct line {
    uint64_t       seq    = 0;
    uint64_t       thread = 0;
    ggml_log_level level  = GGML_LOG_LEVEL_NONE;
    std::string    text;
};

constexpr size_t CAPACITY = 2048; // lines; loading a large model writes a few hundred

// Never destroyed: threads of ggml may still log while the process runs its exit handlers.
struct ring_state {
    std::mutex          mutex;
    std::vector<line>   lines{CAPACITY};
    uint64_t            next = 1;
    std::atomic<int>    min_level{GGML_LOG_LEVEL_INFO};
};

ring_state & ring() {
    static ring_state * state = new ring_state;
    return *state;
}

thread_local ggml_log_level level_before_cont = GGML_LOG_LEVEL_INFO;
thread_local int            quiet_below       = GGML_LOG_LEVEL_NONE;

void on_log(ggml_log_level level, const char * text, void *) {
    llc::log_line(level, text);
}

} // namespace

namespace llc {

void log_line(ggml_log_level level, const char * text) noexcept {
    const bool cont = level == GGML_LOG_LEVEL_CONT; // continues the line before it, of the same thread
    if (cont) {
        level = level_before_cont;
    } else {
        level_before_cont = level;
    }
    auto & r = ring();
    if (text == nullptr || static_cast<int>(level) < r.min_level.load(std::memory_order_relaxed) ||
        static_cast<int>(level) < quiet_below) {
        return;
    }
    try {
        std::string stripped(text);
        while (!stripped.empty() && (stripped.back() == '\n' || stripped.back() == '\r')) {
            stripped.pop_back();
        }
        if (stripped.empty()) {
            return;
        }
        const uint64_t thread = llc_thread_id();
        std::lock_guard<std::mutex> lock(r.mutex);
        line & last = r.lines[(r.next - 1) % CAPACITY];
        if (cont && last.thread == thread && last.text.size() < 4096) {
            last.text += stripped;
            return;
        }
        line & slot = r.lines[r.next % CAPACITY];
        slot = line{r.next, thread, level, std::move(stripped)};
        r.next++;
    } catch (...) {
        // a log line is not worth an error
    }
}

quiet_scope::quiet_scope(ggml_log_level level) : before_(quiet_below) {
    quiet_below = level;
}

quiet_scope::~quiet_scope() {
    quiet_below = before_;
}

} // namespace llc

void llc_log_install(int32_t min_level) {
    llc_log_set_level(min_level);
    llama_log_set(on_log, nullptr);
    ggml_log_set(on_log, nullptr);
    mtmd_log_set(on_log, nullptr);
    mtmd_helper_log_set(on_log, nullptr);
    common_log_pause(common_log_main()); // upstream's `common` would print to stdout and stderr
}

void llc_log_set_level(int32_t min_level) {
    ring().min_level.store(min_level, std::memory_order_relaxed);
}

uint64_t llc_log_next(void) {
    auto & r = ring();
    std::lock_guard<std::mutex> lock(r.mutex);
    return r.next;
}

uint64_t llc_thread_id(void) {
    return std::hash<std::thread::id>{}(std::this_thread::get_id());
}

bool llc_log_read(uint64_t from, struct llc_log_entry * entry, char * text, size_t capacity) {
    if (entry == nullptr || (text == nullptr && capacity > 0)) {
        return false;
    }
    auto & r = ring();
    std::lock_guard<std::mutex> lock(r.mutex);
    const uint64_t oldest = r.next > CAPACITY ? r.next - CAPACITY + 1 : 1;
    const uint64_t seq    = std::max(from, oldest);
    if (seq >= r.next) {
        return false;
    }
    const line & found = r.lines[seq % CAPACITY];
    const size_t n     = std::min(found.text.size(), capacity);
    std::memcpy(text, found.text.data(), n);
    *entry = {found.seq, found.thread, static_cast<int32_t>(found.level), static_cast<int32_t>(n)};
    return true;
}
