// Upstream's parsers recurse once per level of what they read.
#pragma once

#include "guard.h"

#include <cstring>
#include <string>

namespace llc {

constexpr int MAX_NESTING = 256;

// Refuses text whose brackets are nested too deeply; strings are skipped, and so is [...] where '[' does not open.
inline void check_nesting(const char * text, const char * open, const char * close, const char * what) {
    int  depth = 0;
    char quote = 0; // inside "..." or, in a grammar, [...]
    for (const char * p = text; *p != 0; ++p) {
        if (*p == '\\' && p[1] != 0) {
            ++p;
        } else if (quote != 0) {
            quote = *p == quote ? 0 : quote;
        } else if (*p == '"') {
            quote = '"';
        } else if (*p == '[' && std::strchr(open, '[') == nullptr) {
            quote = ']';
        } else if (std::strchr(open, *p) != nullptr) {
            if (++depth > MAX_NESTING) {
                throw invalid_argument(std::string(what) + " is nested deeper than " + std::to_string(MAX_NESTING) +
                                       " levels");
            }
        } else if (std::strchr(close, *p) != nullptr) {
            --depth;
        }
    }
}

} // namespace llc
