// Upstream's common_chat: what a template and the options of a request mean for prompt, grammar and reply.
#include "big_stack.h"
#include "chat_format.h"
#include "guard.h"
#include "nesting.h"

#include <cstdlib>
#include <cstring>

using llc::guarded;
using json = common_json;

struct llc_chat_templates {
    common_chat_templates_ptr templates;
    size_t                    stack = 0; // bytes that rendering may need
};

namespace {

// The engine recurses per nesting level of the template and per term of an expression, at most one for each byte.
constexpr size_t MAX_TEMPLATE_BYTES = 256 * 1024;
constexpr size_t STACK_BASE         = 16 * 1024 * 1024;
constexpr size_t STACK_PER_BYTE     = 4096;

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
        made->stack = STACK_BASE + STACK_PER_BYTE * text.size();
        llc::on_big_stack(made->stack, [&] {
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
        llc::on_big_stack(templates->stack, [&] {
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
