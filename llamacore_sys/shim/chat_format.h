// How the replies of one kind of request are read.
#pragma once

#include "chat.h"

#include <memory>
#include <string>

namespace llc {

// Shared by all that read such replies, never changed.
struct chat_parser {
    common_chat_format format = COMMON_CHAT_FORMAT_CONTENT_ONLY;
    common_peg_arena   arena;
    std::string        generation_prompt;       // what the prompt already has of the reply
    bool               plain_content   = false; // content goes on with any text that has none of the bytes in `ends`
    bool               plain_reasoning = false;
    bool               ends[256]       = {};
};

std::shared_ptr<const chat_parser> make_chat_parser(const common_chat_params & params);

char * copy_text(const std::string & text); // for llc_string_free()

} // namespace llc

struct llc_chat_parser {
    std::shared_ptr<const llc::chat_parser> shared;
};
