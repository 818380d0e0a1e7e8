#include "big_stack.h"

#include "guard.h"

#include <exception>
#include <new>

#ifdef _WIN32
#    define WIN32_LEAN_AND_MEAN
#    define NOMINMAX
#    include <windows.h>
#else
#    include <pthread.h>
#endif

namespace {

struct job {
    const std::function<void()> & body;
    std::exception_ptr            error;

    void run() {
        llc::guard_scope scope; // GGML_ASSERT unwinds on threads inside a guard only
        try {
            body();
        } catch (...) {
            error = std::current_exception();
        }
    }
};

#ifdef _WIN32
DWORD WINAPI entry(void * argument) {
    static_cast<job *>(argument)->run();
    return 0;
}
#else
void * entry(void * argument) {
    static_cast<job *>(argument)->run();
    return nullptr;
}
#endif

} // namespace

void llc::on_big_stack(size_t bytes, const std::function<void()> & body) {
    job work{body, nullptr};
#ifdef _WIN32
    HANDLE thread = CreateThread(nullptr, bytes, entry, &work, STACK_SIZE_PARAM_IS_A_RESERVATION, nullptr);
    if (thread == nullptr) {
        throw std::bad_alloc();
    }
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
#else
    constexpr size_t page = 65536; // a multiple of every page size in use
    pthread_attr_t attributes;
    pthread_t      thread;
    if (pthread_attr_init(&attributes) != 0) {
        throw std::bad_alloc();
    }
    const bool started = pthread_attr_setstacksize(&attributes, (bytes + page - 1) / page * page) == 0 &&
                         pthread_create(&thread, &attributes, entry, &work) == 0;
    pthread_attr_destroy(&attributes);
    if (!started) {
        throw std::bad_alloc();
    }
    pthread_join(thread, nullptr);
#endif
    if (work.error) {
        std::rethrow_exception(work.error);
    }
}
