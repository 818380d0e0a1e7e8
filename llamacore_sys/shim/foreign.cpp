#include "foreign.h"

#include "llamacore_shim.h"

#ifdef __linux__

#include <dlfcn.h>
#include <elf.h>
#include <link.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace {

struct library {
    ElfW(Addr)         base;
    const ElfW(Dyn) *  dynamic;
};

std::string folder_of(const char * path) {
    const std::string text(path != nullptr ? path : "");
    return text.substr(0, text.rfind('/') + 1);
}

// glibc has put absolute addresses into the table, other loaders leave offsets
template <typename T> const T * address(const library & lib, ElfW(Addr) value) {
    return reinterpret_cast<const T *>(value < lib.base ? lib.base + value : value);
}

// Everything that a library defines for others with global binding. Weak symbols are templates and inline functions,
// which any C++ library may have.
struct symbols {
    const char *       names = nullptr;
    const ElfW(Sym) *  table = nullptr;
    uint32_t           first = 0;
    uint32_t           end   = 0;

    explicit symbols(const library & lib) {
        const uint32_t * hash = nullptr;
        for (const auto * entry = lib.dynamic; entry->d_tag != DT_NULL; ++entry) {
            switch (entry->d_tag) {
                case DT_STRTAB:   names = address<char>(lib, entry->d_un.d_ptr); break;
                case DT_SYMTAB:   table = address<ElfW(Sym)>(lib, entry->d_un.d_ptr); break;
                case DT_GNU_HASH: hash  = address<uint32_t>(lib, entry->d_un.d_ptr); break;
                default:          break;
            }
        }
        if (hash == nullptr || table == nullptr || names == nullptr) {
            return;
        }
        const uint32_t   n_buckets = hash[0];
        const uint32_t * buckets   = hash + 4 + hash[2] * (sizeof(ElfW(Addr)) / sizeof(uint32_t));
        const uint32_t * chains    = buckets + n_buckets;
        first                      = hash[1];
        uint32_t last              = *std::max_element(buckets, buckets + n_buckets);
        if (last < first) {
            return; // it defines nothing
        }
        while ((chains[last - first] & 1) == 0) {
            ++last;
        }
        end = last + 1;
    }
};

bool is_ours(const char * path, const std::string & folder) {
    const char * name = path + folder_of(path).size();
    return folder_of(path) == folder && (std::strncmp(name, "libllamacore", 12) == 0 ||
                                         std::strncmp(name, "libggml-", 8) == 0);
}

std::vector<library> our_libraries() {
    struct search {
        std::string          folder;
        std::vector<library> found;
    } search;
    Dl_info self;
    if (dladdr(reinterpret_cast<const void *>(&llc_symbol_path), &self) != 0) {
        search.folder = folder_of(self.dli_fname);
    }
    dl_iterate_phdr(
            [](dl_phdr_info * info, size_t, void * data) {
                auto & out = *static_cast<struct search *>(data);
                if (info->dlpi_name == nullptr || !is_ours(info->dlpi_name, out.folder)) {
                    return 0;
                }
                for (int i = 0; i < info->dlpi_phnum; ++i) {
                    if (info->dlpi_phdr[i].p_type == PT_DYNAMIC) {
                        out.found.push_back({info->dlpi_addr, reinterpret_cast<const ElfW(Dyn) *>(
                                                                      info->dlpi_addr + info->dlpi_phdr[i].p_vaddr)});
                    }
                }
                return 0;
            },
            &search);
    return search.found;
}

} // namespace

std::string llc::foreign_symbol(void * handle) {
    auto       libraries = our_libraries();
    link_map * map       = nullptr;
    if (handle != nullptr && dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0) {
        libraries.push_back({map->l_addr, map->l_ld});
    }
    void * global = dlopen(nullptr, RTLD_LAZY); // the program and all that is global
    std::string foreign;
    for (const auto & lib : libraries) {
        const symbols all(lib);
        for (uint32_t i = all.first; i < all.end && foreign.empty(); ++i) {
            const auto & symbol = all.table[i];
            const int    type   = ELF64_ST_TYPE(symbol.st_info);
            if (symbol.st_shndx == SHN_UNDEF || ELF64_ST_BIND(symbol.st_info) != STB_GLOBAL ||
                    (type != STT_FUNC && type != STT_OBJECT)) {
                continue;
            }
            const char * name  = all.names + symbol.st_name;
            const void * other = dlsym(global, name);
            Dl_info      info;
            if (other == nullptr || dladdr(other, &info) == 0) {
                continue;
            }
            const auto base = reinterpret_cast<ElfW(Addr)>(info.dli_fbase);
            if (std::none_of(libraries.begin(), libraries.end(), [&](const library & l) { return l.base == base; })) {
                foreign = std::string(name) + " of " + info.dli_fname;
            }
        }
    }
    dlclose(global);
    return foreign;
}

#else

// Elsewhere a library's references name the library that they are for.
std::string llc::foreign_symbol(void *) {
    return {};
}

#endif

const char * llc_foreign_symbol(void) {
    static thread_local std::string found;
    try {
        found = llc::foreign_symbol(nullptr);
    } catch (...) {
        return "";
    }
    return found.c_str();
}
