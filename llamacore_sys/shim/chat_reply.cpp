// Replies read while they are written: upstream's parser run over the text so far, and what is new since the last time.
#include "big_stack.h"
#include "chat_format.h"
#include "guard.h"

#include "chat-peg-parser.h"

#include <algorithm>

using llc::chat_parser;
using llc::guarded;
using json = common_json;

namespace {

using tags = common_chat_peg_builder;

// Whether a tagged node is text up to a delimiter and nothing else, however wrapped; notes how delimiters begin.
class plain_check {
public:
    plain_check(const common_peg_arena & arena, bool (&ends)[256]) : arena_(arena), ends_(ends) {}

    bool operator()(common_peg_parser_id id, int depth = 0) const {
        if (depth > 16) {
            return false;
        }
        const auto & parser = arena_.get(id);
        if (const auto * until = std::get_if<common_peg_until_parser>(&parser)) {
            for (const auto & delimiter : until->delimiters) {
                if (!delimiter.empty()) {
                    ends_[static_cast<unsigned char>(delimiter[0])] = true;
                }
            }
            return true;
        }
        if (const auto * tag = std::get_if<common_peg_tag_parser>(&parser)) {
            return (*this)(tag->child, depth + 1);
        }
        if (const auto * rule = std::get_if<common_peg_rule_parser>(&parser)) {
            return (*this)(rule->child, depth + 1);
        }
        if (const auto * ref = std::get_if<common_peg_ref_parser>(&parser)) {
            return (*this)(arena_.get_rule(ref->name), depth + 1);
        }
        if (const auto * sequence = std::get_if<common_peg_sequence_parser>(&parser)) {
            // "not a marker, a character, text up to the marker"
            const auto & children = sequence->children;
            for (size_t i = 0; i + 1 < children.size(); ++i) {
                const auto & child = arena_.get(children[i]);
                if (!std::holds_alternative<common_peg_not_parser>(child) &&
                    !std::holds_alternative<common_peg_any_parser>(child)) {
                    return false;
                }
            }
            return !children.empty() && (*this)(children.back(), depth + 1);
        }
        return false;
    }

private:
    const common_peg_arena & arena_;
    bool (&ends_)[256];
};

enum tail { TAIL_OTHER = 0, TAIL_CONTENT = 1, TAIL_REASONING = 2 };

struct reading {
    common_chat_msg message;
    size_t          covered = 0; // bytes of the input that are in the message, or belong to what is
    tail            open    = TAIL_OTHER;
};

bool read(const chat_parser & parser, const std::string & input, common_peg_parse_flags flags, reading & found) {
    common_peg_parse_context context(input, flags);
    const auto result = parser.arena.parse(context);
    if (result.fail()) {
        return false;
    }
    found.message.role = "assistant";
    std::unique_ptr<common_chat_peg_mapper> mapper;
    switch (parser.format) {
        case COMMON_CHAT_FORMAT_PEG_GEMMA4:
            mapper = std::make_unique<common_chat_peg_gemma4_mapper>(found.message);
            break;
        case COMMON_CHAT_FORMAT_PEG_MINIMAX_M3:
            mapper = std::make_unique<common_chat_peg_minimax_m3_mapper>(found.message);
            break;
        default:
            mapper = std::make_unique<common_chat_peg_mapper>(found.message);
    }
    mapper->from_ast(context.ast, result);
    found.covered = parser.generation_prompt.size();
    const auto cover = [&](size_t end, tail open) {
        if (end >= found.covered) {
            found.covered = end;
            found.open    = open;
        }
    };
    size_t whole_call = 0;     // where the call that is visited ends, if it is complete
    bool   named      = false; // a call without a name is not in the message
    context.ast.visit(result, [&](const common_peg_ast_node & node) {
        if (node.tag == tags::CONTENT || node.tag == tags::REASONING) {
            cover(node.end, !node.is_partial                ? TAIL_OTHER
                            : node.tag == tags::CONTENT     ? TAIL_CONTENT
                                                            : TAIL_REASONING);
        } else if (node.tag == tags::REASONING_BLOCK) {
            cover(node.is_partial ? 0 : node.end, TAIL_OTHER);
        } else if (node.tag == tags::TOOL) {
            whole_call = node.is_partial ? 0 : node.end;
            named      = false;
        } else if (node.tag == tags::TOOL_NAME) {
            named = true;
            cover(std::max(whole_call, node.end), TAIL_OTHER);
        } else if (!node.tag.empty() && named) {
            cover(node.end, TAIL_OTHER);
        }
    });
    if (result.success()) {
        found.covered = std::max(found.covered, result.end); // not every format asks for the end of the text
    }
    if (found.covered != input.size()) {
        found.open = TAIL_OTHER;
    }
    return true;
}

bool starts_with(const std::string & text, const std::string & start) {
    return text.compare(0, start.size(), start) == 0;
}

// Text that was told cannot be taken back: what upstream trims when more is known stays.
void keep_told(std::string & now, const std::string & told) {
    if (now.size() < told.size() && starts_with(told, now)) {
        now = told;
    }
}

json to_json(const std::vector<common_chat_msg_diff> & diffs) {
    json found = json::array();
    for (const auto & diff : diffs) {
        json item = json::object();
        if (!diff.reasoning_content_delta.empty()) {
            item["reasoning_content"] = diff.reasoning_content_delta;
        }
        if (!diff.content_delta.empty()) {
            item["content"] = diff.content_delta;
        }
        if (diff.tool_call_index != std::string::npos) {
            item["index"]     = diff.tool_call_index;
            item["id"]        = diff.tool_call_delta.id;
            item["name"]      = diff.tool_call_delta.name;
            item["arguments"] = diff.tool_call_delta.arguments;
        }
        if (!item.empty()) {
            found.push_back(item);
        }
    }
    return found;
}

// Stack that the parser needs for each bracket or tag that may open a level, measured generously.
constexpr size_t STACK_PER_LEVEL  = 8192;
constexpr size_t STACK_AT_HAND    = 256 * 1024; // by that measure: really less, which every thread has left
constexpr size_t MAX_LEVELS       = 65536;
constexpr size_t LONG_TEXT        = 64 * 1024;

} // namespace

std::shared_ptr<const chat_parser> llc::make_chat_parser(const common_chat_params & params) {
    auto made = std::make_shared<chat_parser>();
    made->format            = params.format;
    made->generation_prompt = params.generation_prompt;
    if (params.parser.empty()) {
        made->arena = build_chat_peg_parser([](common_chat_peg_builder & p) { return p.content(p.rest()) + p.end(); });
    } else {
        made->arena.load(params.parser);
    }
    made->plain_content = made->plain_reasoning = true;
    const plain_check plain(made->arena, made->ends);
    for (size_t id = 0; id < made->arena.size(); ++id) {
        const auto * tag = std::get_if<common_peg_tag_parser>(&made->arena.get(id));
        if (tag != nullptr && tag->tag == tags::CONTENT) {
            made->plain_content = plain(tag->child) && made->plain_content;
        } else if (tag != nullptr && tag->tag == tags::REASONING) {
            made->plain_reasoning = plain(tag->child) && made->plain_reasoning;
        }
    }
    return made;
}

struct llc_chat_reply {
    std::shared_ptr<const chat_parser> parser;
    std::string                        input; // what the prompt has of the reply, then the reply so far
    common_chat_msg                    told;  // what the pieces so far add up to
    size_t                             covered = 0;
    size_t                             levels  = 0; // brackets and tags that the input opens
    tail                               open    = TAIL_OTHER;
    size_t                             read_at = 0;     // size of the input at the last reading
    bool                               lost    = false; // the text follows no format: the rest is content

    explicit llc_chat_reply(std::shared_ptr<const chat_parser> shared)
        : parser(std::move(shared)), input(parser->generation_prompt), covered(input.size()) {
        told.role = "assistant";
        count_levels(input);
    }

    void count_levels(const std::string & text) {
        levels += std::count_if(text.begin(), text.end(),
                                [](char c) { return c == '{' || c == '[' || c == '<' || c == '('; });
    }

    bool read(common_peg_parse_flags flags, reading & found) const {
        if (levels > MAX_LEVELS) {
            return false;
        }
        bool ok = false;
        const auto run = [&] {
            try {
                ok = ::read(*parser, input, flags, found);
            } catch (const std::bad_alloc &) {
                throw;
            } catch (const std::exception &) {
                ok = false; // a reply that upstream fails on is one that follows no format
            }
        };
        const size_t stack = levels * STACK_PER_LEVEL;
        if (stack <= STACK_AT_HAND) {
            run();
        } else {
            llc::on_big_stack(stack + 1024 * 1024, run);
        }
        return ok;
    }

    // takes over a reading and returns what is new in it
    std::vector<common_chat_msg_diff> tell(reading & found) {
        std::vector<common_chat_msg_diff> diffs;
        try {
            diffs = common_chat_msg_diff::compute_diffs(told, found.message);
        } catch (const std::runtime_error &) {
            return {}; // it contradicts what was told: more text may settle it
        }
        keep_told(found.message.content, told.content);
        keep_told(found.message.reasoning_content, told.reasoning_content);
        for (size_t i = 0; i < told.tool_calls.size(); ++i) {
            keep_told(found.message.tool_calls[i].arguments, told.tool_calls[i].arguments);
        }
        told    = std::move(found.message);
        covered = found.covered;
        return diffs;
    }

    // everything from `covered` on is content
    std::vector<common_chat_msg_diff> tell_rest() {
        std::vector<common_chat_msg_diff> diffs;
        const std::string rest = input.substr(covered);
        if (rest.find_first_not_of(" \t\r\n") != std::string::npos || lost) {
            diffs.emplace_back().content_delta = rest;
            told.content += rest;
        }
        covered = input.size();
        return diffs;
    }

    bool goes_on(const char * text, size_t length) const {
        if (open == TAIL_OTHER) {
            return false;
        }
        return std::none_of(text, text + length, [&](char c) { return parser->ends[static_cast<unsigned char>(c)]; });
    }

    // Every reading starts at the beginning: of a long text only every 256th part of it is worth one.
    bool waits() const {
        return !lost && input.size() > LONG_TEXT && input.size() - read_at < input.size() / 256;
    }

    std::vector<common_chat_msg_diff> push() {
        reading found;
        read_at = input.size();
        if (lost || !read(COMMON_PEG_PARSE_FLAG_LENIENT, found)) {
            lost = true;
            open = TAIL_OTHER;
            return tell_rest();
        }
        const auto diffs = tell(found);
        const bool plain = found.open == TAIL_CONTENT ? parser->plain_content : parser->plain_reasoning;
        // only where text came out as it went in: upstream leaves out white space here and there
        const auto & field = found.open == TAIL_CONTENT ? told.content : told.reasoning_content;
        open = found.open != TAIL_OTHER && plain && !field.empty() && !input.empty() && field.back() == input.back() &&
                       covered == input.size()
                   ? found.open
                   : TAIL_OTHER;
        return diffs;
    }

    std::vector<common_chat_msg_diff> finish() {
        if (lost) {
            return tell_rest();
        }
        reading whole;
        const bool ended = read(COMMON_PEG_PARSE_FLAG_NONE, whole);
        auto       diffs = ended ? tell(whole) : push(); // else it is cut off, or wrong at its end
        if (!lost) {
            const auto rest = tell_rest(); // what is left over is content
            diffs.insert(diffs.end(), rest.begin(), rest.end());
        }
        return diffs;
    }
};

enum llc_status llc_chat_reply_new(const struct llc_chat_parser * parser, struct llc_chat_reply ** reply) {
    *reply = nullptr;
    return guarded([&] {
        *reply = new llc_chat_reply(parser->shared);
        return LLC_OK;
    });
}

void llc_chat_reply_free(struct llc_chat_reply * reply) {
    delete reply;
}

enum llc_status llc_chat_reply_push(
        struct llc_chat_reply * reply, const char * text, size_t length, bool last, int32_t * kind, char ** pieces) {
    *kind   = TAIL_OTHER;
    *pieces = nullptr;
    return guarded([&] {
        if (reply->input.size() + length > LLC_CHAT_MAX_REPLY) {
            throw llc::invalid_argument("the reply has more than " + std::to_string(LLC_CHAT_MAX_REPLY) + " bytes");
        }
        const std::string more(text, length);
        reply->input += more;
        reply->count_levels(more);
        if (!last && !reply->lost && reply->goes_on(text, length)) {
            (reply->open == TAIL_CONTENT ? reply->told.content : reply->told.reasoning_content) += more;
            reply->covered = reply->input.size();
            *kind          = reply->open;
            return LLC_OK;
        }
        if (!last && reply->waits()) {
            reply->open = TAIL_OTHER; // this text is told with the next reading
            return LLC_OK;
        }
        const auto diffs = last ? reply->finish() : reply->push();
        if (!diffs.empty()) {
            *pieces = llc::copy_text(to_json(diffs).dump());
        }
        return LLC_OK;
    });
}

enum llc_status llc_chat_reply_message(const struct llc_chat_reply * reply, char ** message) {
    *message = nullptr;
    return guarded([&] {
        json calls = json::array();
        for (const auto & call : reply->told.tool_calls) {
            json item         = json::object();
            item["id"]        = call.id;
            item["name"]      = call.name;
            item["arguments"] = call.arguments;
            calls.push_back(item);
        }
        json found                 = json::object();
        found["content"]           = reply->told.content;
        found["reasoning_content"] = reply->told.reasoning_content;
        found["tool_calls"]        = calls;
        *message                   = llc::copy_text(found.dump());
        return LLC_OK;
    });
}
