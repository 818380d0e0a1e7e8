// Upstream's common_chat: what a template and the options of a request mean for prompt, grammar and reply.
#include "big_stack.h"
#include "chat_format.h"
#include "guard.h"
#include "nesting.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <vector>

using llc::guarded;
using json = common_json;

struct llc_chat_templates {
    common_chat_templates_ptr templates;
    size_t                    stack = 0; // bytes that rendering may need
};

namespace {

// The engine recurses per nesting level of the template and per term of an expression: at most once for each byte, which
// takes less than 1300 bytes of stack on x86-64.
constexpr size_t MAX_TEMPLATE_BYTES = 256 * 1024;
constexpr size_t STACK_BASE         = 16 * 1024 * 1024;
constexpr size_t STACK_PER_BYTE     = 4096;
constexpr size_t MAX_STACK          = size_t{2} * 1024 * 1024 * 1024;
constexpr size_t BYTES_PER_BLOCK    = 32; // what a nested block counts as

// How deep one call of a macro may nest, in bytes of the template: its longest tag, inside of the blocks around it.
size_t macro_depth(const std::string & source) {
    size_t              longest = 0;
    size_t              deepest = 0;
    std::vector<size_t> blocks; // open ones; an `elif` is nested in what comes before it
    for (size_t at = source.find('{'); at != std::string::npos && at + 1 < source.size(); at = source.find('{', at + 1)) {
        const char kind = source[at + 1];
        if (kind != '%' && kind != '{') {
            continue;
        }
        const size_t start = at + 2;
        size_t       size  = 0;
        char         quote = 0;
        for (at = start; at < source.size(); ++at) {
            const char c = source[at];
            if (c == '\\') {
                ++at;
            } else if (quote != 0) {
                quote = c == quote ? 0 : quote;
            } else if (c == '"' || c == '\'') {
                quote = c;
            } else if (c == (kind == '%' ? '%' : '}') && at + 1 < source.size() && source[at + 1] == '}') {
                break;
            }
            size += quote == 0;
        }
        longest = std::max(longest, size);
        if (kind != '%') {
            continue;
        }
        const size_t      from = source.find_first_not_of("-+ \t\r\n", start);
        const size_t      to   = source.find_first_not_of("abcdefghijklmnopqrstuvwxyz", std::min(from, source.size()));
        const std::string word = from < at ? source.substr(from, to - from) : "";
        if (word.compare(0, 3, "end") == 0) {
            if (!blocks.empty()) {
                blocks.pop_back();
            }
        } else if (word == "elif" && !blocks.empty()) {
            ++blocks.back();
        } else if (word != "else" && (word != "set" || source.substr(start, at - start).find('=') == std::string::npos)) {
            blocks.push_back(1);
        }
        deepest = std::max(deepest, std::accumulate(blocks.begin(), blocks.end(), size_t{0}));
    }
    return longest + BYTES_PER_BLOCK * deepest;
}

size_t stack_for(const std::string & source) {
    const bool   macros = source.find("macro") != std::string::npos;
    const size_t depth  = std::max(source.size(), macros ? macro_depth(source) * (LLC_CHAT_MAX_MACROS + 1) : 0);
    return STACK_BASE + STACK_PER_BYTE * depth;
}

common_chat_tool make_tool(const json & tool) {
    const auto & function = tool.at("function");
    return {function.at("name").get<std::string>(), function.value("description", ""),
            function.value("parameters", json::object()).dump()};
}

common_chat_templates_inputs make_inputs(const char * text) {
    llc::check_nesting(text, "[{", "]}", "the conversation");
    const json given = json::parse(text);
    common_chat_templates_inputs inputs;
    inputs.messages = common_chat_msgs_parse_oaicompat(given.at("messages"));
    for (const auto & tool : given.at("tools")) {
        inputs.tools.push_back(make_tool(tool));
    }
    inputs.tool_choice           = common_chat_tool_choice_parse_oaicompat(given.at("tool_choice").get<std::string>());
    inputs.parallel_tool_calls   = given.at("parallel_tool_calls").get<bool>();
    inputs.json_schema           = given.at("json_schema").is_null() ? "" : given.at("json_schema").dump();
    inputs.enable_thinking       = given.at("enable_thinking").get<bool>();
    inputs.reasoning_format      = common_reasoning_format_from_name(given.at("reasoning_format").get<std::string>());
    inputs.add_generation_prompt = given.at("add_generation_prompt").get<bool>();
    for (const auto & [name, value] : given.at("chat_template_kwargs").items()) {
        inputs.chat_template_kwargs[name] = value.dump();
    }
    return inputs;
}

// Upstream's engine explains itself in several lines, the cause last.
std::string one_line(const std::string & text) {
    constexpr size_t HEAD = 100;
    constexpr size_t TAIL = 200;
    std::string line;
    for (const char c : text) {
        const bool space = std::strchr(" \t\r\n^", c) != nullptr && c != 0;
        if (!space) {
            line += c;
        } else if (!line.empty() && line.back() != ' ') {
            line += ' ';
        }
    }
    if (line.size() <= HEAD + TAIL) {
        return line;
    }
    const auto whole = [&](size_t at) { // not inside a character
        while (at < line.size() && (static_cast<unsigned char>(line[at]) & 0xC0) == 0x80) {
            ++at;
        }
        return at;
    };
    return line.substr(0, whole(HEAD)) + " … " + line.substr(whole(line.size() - TAIL));
}

// Runs upstream's engine with room to recurse.
template <typename Body> void run_engine(size_t stack, Body && body) {
    try {
        llc::on_big_stack(stack, body);
    } catch (const llc::invalid_argument &) {
        throw;
    } catch (const llc::ggml_aborted &) {
        throw;
    } catch (const std::runtime_error & e) {
        throw std::runtime_error(one_line(e.what()));
    } catch (const std::logic_error & e) { // std::invalid_argument among them
        throw std::runtime_error(one_line(e.what()));
    }
}

const char * trigger_type(common_grammar_trigger_type type) {
    switch (type) {
        case COMMON_GRAMMAR_TRIGGER_TYPE_TOKEN:        return "token";
        case COMMON_GRAMMAR_TRIGGER_TYPE_WORD:         return "word";
        case COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN:      return "pattern";
        case COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN_FULL: return "pattern_full";
    }
    throw std::runtime_error("a grammar trigger of an unknown type");
}

json describe(const common_chat_params & params) {
    json triggers = json::array();
    for (const auto & trigger : params.grammar_triggers) {
        json item = json::object();
        item["type"]  = trigger_type(trigger.type);
        item["value"] = trigger.value;
        triggers.push_back(item);
    }
    json found = json::object();
    found["format"]             = common_chat_format_name(params.format);
    found["prompt"]             = params.prompt;
    found["grammar"]            = params.grammar;
    found["grammar_lazy"]       = params.grammar_lazy;
    found["grammar_triggers"]   = triggers;
    found["preserved_tokens"]   = params.preserved_tokens;
    found["additional_stops"]   = params.additional_stops;
    found["generation_prompt"]  = params.generation_prompt;
    found["supports_thinking"]  = params.supports_thinking;
    found["thinking_start_tag"] = params.thinking_start_tag;
    found["thinking_end_tags"]  = params.thinking_end_tags;
    return found;
}

} // namespace

char * llc::copy_text(const std::string & text) {
    auto * copy = static_cast<char *>(std::malloc(text.size() + 1));
    if (copy == nullptr) {
        throw std::bad_alloc();
    }
    std::memcpy(copy, text.c_str(), text.size() + 1);
    return copy;
}

enum llc_status llc_chat_templates_new(
        const char * source, const char * bos_token, const char * eos_token, struct llc_chat_templates ** templates) {
    *templates = nullptr;
    return guarded([&] {
        const std::string text(source);
        if (text.empty() || text.size() > MAX_TEMPLATE_BYTES) {
            throw llc::invalid_argument("the chat template has " + std::to_string(text.size()) + " bytes, 1 to " +
                                        std::to_string(MAX_TEMPLATE_BYTES) + " are taken");
        }
        auto made   = std::make_unique<llc_chat_templates>();
        made->stack = stack_for(text);
        if (made->stack > MAX_STACK) {
            throw llc::invalid_argument("the macros of the chat template are too long or nest too deeply");
        }
        run_engine(made->stack, [&] {
            try {
                made->templates = common_chat_templates_init(nullptr, text, bos_token, eos_token);
            } catch (const std::exception &) {
                common_chat_template again(text, bos_token, eos_token); // upstream rethrows without the message
                throw;
            }
        });
        *templates = made.release();
        return LLC_OK;
    });
}

void llc_chat_templates_free(struct llc_chat_templates * templates) {
    guarded([&] {
        if (templates != nullptr) {
            llc::on_big_stack(templates->stack, [&] { templates->templates.reset(); }); // the tree is freed recursively
        }
        delete templates;
        return LLC_OK;
    });
}

enum llc_status llc_chat_templates_describe(const struct llc_chat_templates * templates, char ** description) {
    *description = nullptr;
    return guarded([&] {
        json found = json::object();
        found["source"] = common_chat_templates_source(templates->templates.get());
        found["caps"]   = common_chat_templates_get_caps(templates->templates.get());
        *description    = llc::copy_text(found.dump());
        return LLC_OK;
    });
}

enum llc_status llc_chat_apply(
        const struct llc_chat_templates * templates, const char * inputs, char ** params,
        struct llc_chat_parser ** parser) {
    *params = nullptr;
    *parser = nullptr;
    return guarded([&] {
        const auto given = make_inputs(inputs);
        run_engine(templates->stack, [&] {
            const auto made = common_chat_templates_apply(templates->templates.get(), given);
            auto       ref  = std::make_unique<llc_chat_parser>();
            ref->shared     = llc::make_chat_parser(made);
            *params         = llc::copy_text(describe(made).dump());
            *parser         = ref.release();
        });
        return LLC_OK;
    });
}

void llc_chat_parser_free(struct llc_chat_parser * parser) {
    delete parser;
}
