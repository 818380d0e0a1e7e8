// main() for a tool of upstream. Its log, which is its output, is written by a thread that an exit does not wait for.
#include "log.h"

int UPSTREAM_MAIN(int argc, char ** argv);

int main(int argc, char ** argv) {
    const int status = UPSTREAM_MAIN(argc, argv);
    common_log_flush(common_log_main());
    return status;
}
