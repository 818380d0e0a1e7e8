// What upstream reads of control vector files: the numbers of each layer, one layer a line.
#include "common.h"

#include <cstdio>
#include <cstdlib>

int main(int argc, char ** argv) {
    std::vector<common_control_vector_load_info> files;
    for (int i = 1; i + 1 < argc; i += 2) {
        files.push_back({static_cast<float>(std::atof(argv[i])), argv[i + 1]});
    }
    const auto loaded = common_control_vector_load(files);
    if (loaded.n_embd < 1) {
        return 1;
    }
    for (size_t i = 0; i < loaded.data.size(); ++i) {
        std::printf("%.9g%c", loaded.data[i], (i + 1) % loaded.n_embd == 0 ? '\n' : ' ');
    }
    return 0;
}
