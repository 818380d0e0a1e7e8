// Whether another llama.cpp of this process stands between our libraries.
#pragma once

#include <string>

namespace llc {

// Names the first function or variable of our libraries that a library in the global symbol space (the program itself,
// preloaded, opened with RTLD_GLOBAL) defines too, with the file of that library; empty when there is none. The loader
// asks there first, whatever our libraries are linked with. `handle` is one more library of ours, or null.
std::string foreign_symbol(void * handle);

} // namespace llc
