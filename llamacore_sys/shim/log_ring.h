// The ring that holds native log lines until Python reads them. Native code never calls into Python to log.
#pragma once

#include "ggml.h"

namespace llc {

void log_line(enum ggml_log_level level, const char * text) noexcept;

} // namespace llc
