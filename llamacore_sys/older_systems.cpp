// Part of every library on Linux, whose references to one function of the C++ library are linked to this one instead
// (see CMakeLists.txt). GCC 12 gave it a new symbol version for a change that nobody sees; with it the libraries would
// not load beside the C++ library of GCC 11, which systems with glibc 2.34 have.

#include <condition_variable>
#include <mutex>

#include <pthread.h>

extern "C" __attribute__((visibility("hidden"))) void
__wrap__ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE(
        std::condition_variable * condition, std::unique_lock<std::mutex> & lock) {
    pthread_cond_wait(condition->native_handle(), lock.mutex()->native_handle());
}
