#include "guard.h"
#include "nesting.h"

#include "json-schema-to-grammar.h"
#include "llama-grammar.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <regex>
#include <string>
#include <vector>

using llc::check_nesting;
using llc::guarded;

namespace {

// Upstream looks for left recursion without remembering what it has seen, and expands stacks in the same way: rules that
// start with rules that start with rules cost time exponential in their number, and stack in proportion to it.
class left_edge_check {
public:
    explicit left_edge_check(const llama_grammar_parser & parser)
        : rules_(parser.rules), cost_(rules_.size()), open_(rules_.size()), may_be_empty_(rules_.size()) {
        for (const auto & [name, id] : parser.symbol_ids) {
            names_[id] = name;
        }
        for (size_t id = 0; id < rules_.size(); ++id) {
            visit(id, 0);
        }
    }

private:
    static constexpr int      MAX_DEPTH = 1000;
    static constexpr uint64_t MAX_COST  = 100000;

    static bool ends(const llama_grammar_element & element) {
        return element.type == LLAMA_GRETYPE_END || element.type == LLAMA_GRETYPE_ALT;
    }

    // number of rules that upstream visits from this one; the order of its steps matters to what it finds
    uint64_t visit(size_t id, int depth) {
        if (open_[id]) {
            throw llc::invalid_argument("the rule '" + names_[id] + "' is left-recursive: it can start with itself");
        }
        if (cost_[id] != 0) {
            return cost_[id];
        }
        if (depth > MAX_DEPTH) {
            throw llc::invalid_argument("rules start with rules more than " + std::to_string(MAX_DEPTH) + " levels deep");
        }
        open_[id] = true;
        const auto & rule = rules_[id];
        bool at_start = true;
        for (const auto & element : rule) {
            if (ends(element) && at_start) {
                may_be_empty_[id] = true;
                break;
            }
            at_start = ends(element);
        }
        uint64_t cost = 1;
        bool leftmost = true;
        for (const auto & element : rule) {
            if (element.type == LLAMA_GRETYPE_RULE_REF && leftmost) {
                cost += visit(element.value, depth + 1);
                leftmost = may_be_empty_[element.value];
            } else {
                leftmost = ends(element);
            }
        }
        if (cost > MAX_COST) {
            throw llc::invalid_argument("the rule '" + names_[id] + "' has too many ways to start");
        }
        open_[id] = false;
        return cost_[id] = cost;
    }

    const llama_grammar_rules &     rules_;
    std::map<uint32_t, std::string> names_;
    std::vector<uint64_t>           cost_;
    std::vector<bool>               open_;
    std::vector<bool>               may_be_empty_;
};

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
    left_edge_check{parser};
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
