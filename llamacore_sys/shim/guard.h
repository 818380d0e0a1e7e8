// guarded(): the only way out of a shim body. See the rules in llamacore_shim.h.
#pragma once

#include "llamacore_shim.h"

#include <exception>
#include <new>
#include <sstream>
#include <stdexcept>
#include <string>

namespace llc {

// Thrown by the ggml abort callback instead of ending the process. It derives from std::runtime_error on purpose:
// upstream's own catch blocks (model loading, state restore) then clean up as for any other failure.
struct ggml_aborted : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Thrown by shim code for an argument that upstream must not see.
struct invalid_argument : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Throws it with the parts of the message one after the other, unless the condition holds.
template <typename... Part> void require(bool condition, const Part &... parts) {
    if (!condition) {
        std::ostringstream message;
        (message << ... << parts);
        throw invalid_argument(message.str());
    }
}

// A device on another machine is gone; what was computed with it is void.
struct device_lost : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Marks the calling thread as able to unwind out of a failed GGML_ASSERT.
struct guard_scope {
    guard_scope();
    ~guard_scope();
};

void             set_last_error(const std::string & message) noexcept;
bool             abort_seen() noexcept; // a GGML_ASSERT failed on this thread since the guard was entered
enum llc_status  fail(enum llc_status status, const char * message) noexcept;

template <typename Body> enum llc_status guarded(Body && body) noexcept {
    guard_scope scope;
    try {
        const enum llc_status status = body();
        // upstream may have swallowed the exception: the object is unusable all the same
        return status != LLC_OK && abort_seen() ? LLC_ABORTED : status;
    } catch (const ggml_aborted & e) {
        return fail(LLC_ABORTED, e.what());
    } catch (const invalid_argument & e) {
        return fail(LLC_INVALID_ARGUMENT, e.what());
    } catch (const device_lost & e) {
        return fail(LLC_DEVICE_LOST, e.what());
    } catch (const std::bad_alloc &) {
        return fail(LLC_OUT_OF_MEMORY, "out of memory");
    } catch (const std::exception & e) {
        return fail(LLC_EXCEPTION, e.what());
    } catch (...) {
        return fail(LLC_EXCEPTION, "an exception that is not a std::exception");
    }
}

} // namespace llc
