// The ring that holds native log lines until Python reads them. Native code never calls into Python to log.
#pragma once

#include "ggml.h"

namespace llc {

void log_line(enum ggml_log_level level, const char * text) noexcept;

// Lines of this thread below a level are dropped: what is loaded over and over to be measured would fill the ring.
class quiet_scope {
  public:
    explicit quiet_scope(enum ggml_log_level level);
    ~quiet_scope();

  private:
    const int before_;
};

} // namespace llc
