#include "guard.h"

#include "json-schema-to-grammar.h"
#include "llama-grammar.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <regex>

using llc::guarded;

namespace {

// Both parsers recurse per nesting level.
constexpr int MAX_NESTING = 256;

void check_nesting(const char * text, const char * open, const char * close, const char * what) {
    int  depth     = 0;
    char quote     = 0; // inside "..." or, in a grammar, [...]
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
                throw llc::invalid_argument(std::string(what) + " is nested deeper than " + std::to_string(MAX_NESTING) +
                                            " levels");
            }
        } else if (std::strchr(close, *p) != nullptr) {
            --depth;
        }
    }
}

// llama_grammar_parser::parse() writes what is wrong to stderr; this is its loop with the message kept.
void check_gbnf(const struct llama_vocab * vocab, const char * gbnf, const char * root) {
    check_nesting(gbnf, "(", ")", "the grammar");
    const std::string text(gbnf);
    size_t start = 0; // skip what parse_rule() expects to be skipped: white space and comments
    while (start < text.size()) {
        if (std::strchr(" \t\r\n", text[start]) != nullptr) {
            ++start;
        } else if (text[start] == '#') {
            start = std::min(text.find_first_of("\r\n", start), text.size());
        } else {
            break;
        }
    }
    llama_grammar_parser parser(vocab);
    const char * pos = gbnf + start;
    try {
        while (*pos != 0) {
            pos = parser.parse_rule(pos);
        }
    } catch (const std::runtime_error & e) {
        const auto line = 1 + std::count(gbnf, pos, '\n');
        std::string why(e.what());
        if (why.size() > 160) {
            why = why.substr(0, 160) + " …";
        }
        throw llc::invalid_argument("in the rule at line " + std::to_string(line) + ": " + why);
    }
    if (parser.rules.empty()) {
        throw llc::invalid_argument("the grammar has no rules");
    }
    for (const auto & [name, id] : parser.symbol_ids) {
        if (id >= parser.rules.size() || parser.rules[id].empty()) {
            throw llc::invalid_argument("the rule '" + name + "' is used but not defined");
        }
    }
    if (parser.symbol_ids.find(root) == parser.symbol_ids.end()) {
        throw llc::invalid_argument("the grammar has no rule '" + std::string(root) + "' to start from");
    }
}

} // namespace

enum llc_status llc_sampler_grammar(
        const struct llama_vocab * vocab, const char * gbnf, const char * root,
        const char ** patterns, size_t n_patterns, const llama_token * tokens, size_t n_tokens,
        struct llama_sampler ** sampler) {
    *sampler = nullptr;
    return guarded([&] {
        check_gbnf(vocab, gbnf, root);
        for (size_t i = 0; i < n_patterns; ++i) {
            try {
                std::regex compiled(patterns[i]);
            } catch (const std::regex_error & e) {
                throw llc::invalid_argument("trigger pattern '" + std::string(patterns[i]) + "': " + e.what());
            }
        }
        *sampler = n_patterns + n_tokens == 0
            ? llama_sampler_init_grammar(vocab, gbnf, root)
            : llama_sampler_init_grammar_lazy_patterns(vocab, gbnf, root, patterns, n_patterns, tokens, n_tokens);
        return *sampler != nullptr ? LLC_OK : LLC_FAILED;
    });
}

enum llc_status llc_json_schema_to_gbnf(const char * json_schema, char ** gbnf) {
    *gbnf = nullptr;
    return guarded([&] {
        check_nesting(json_schema, "[{", "]}", "the schema");
        const std::string grammar = json_schema_to_grammar(common_json::parse(json_schema), true);
        *gbnf = static_cast<char *>(std::malloc(grammar.size() + 1));
        if (*gbnf == nullptr) {
            throw std::bad_alloc();
        }
        std::memcpy(*gbnf, grammar.c_str(), grammar.size() + 1);
        return LLC_OK;
    });
}
