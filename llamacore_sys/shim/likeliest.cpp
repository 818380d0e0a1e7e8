#include "likeliest.h"

#include <algorithm>
#include <cmath>

// Nearly every block of logits is passed over after one comparison, so that it costs little more than reading them once.
void llc::likeliest(
        const float * logits, int32_t start, int32_t end, size_t n_first, std::vector<llama_token_data> & found) {
    constexpr int32_t block = 64;
    const auto less_likely = [](const llama_token_data & a, const llama_token_data & b) { return a.logit > b.logit; };
    found.clear();
    float least = -INFINITY;
    for (int32_t first = start; first < end; first += block) {
        const int32_t last = std::min(first + block, end);
        if (found.size() == n_first) {
            bool any = false;
            for (int32_t t = first; t < last; ++t) {
                any |= logits[t] > least;
            }
            if (!any) {
                continue;
            }
        }
        for (int32_t t = first; t < last; ++t) {
            if (found.size() < n_first) {
                if (!std::isnan(logits[t])) {
                    found.push_back({t, logits[t], 0.0f});
                    std::push_heap(found.begin(), found.end(), less_likely);
                }
            } else if (logits[t] > least) {
                std::pop_heap(found.begin(), found.end(), less_likely);
                found.back() = {t, logits[t], 0.0f};
                std::push_heap(found.begin(), found.end(), less_likely);
            }
            if (found.size() == n_first) {
                least = found.front().logit;
            }
        }
    }
    std::sort(found.begin(), found.end(), [](const auto & a, const auto & b) { return a.id < b.id; });
}
