#include "graph_rows.h"

#include <memory>
#include <stdexcept>

namespace {

// Upstream has no way to ask for the micro-batch that is being computed. Access checks do not apply to the arguments
// of an explicit instantiation, so private members can be named there, and the compiler still checks that they exist.
template <typename Tag, typename Tag::type Member> struct reach {
    friend typename Tag::type member_of(Tag) { return Member; }
};

struct active_graph { using type = llm_graph_result * llama_context::*; friend type member_of(active_graph); };
struct graph_params { using type = llm_graph_params llm_graph_result::*; friend type member_of(graph_params); };

template struct reach<active_graph, &llama_context::gf_res_prev_active>;
template struct reach<graph_params, &llm_graph_result::params>;

// An input of the graph without tensors: upstream hands each input the micro-batch before it computes. A graph that was
// just built has none yet, but still has the parameters it was built with.
class ubatch_follower : public llm_graph_input_i {
  public:
    explicit ubatch_follower(const llama_ubatch * ubatch) : ubatch(ubatch) {}

    void set_input(const llama_ubatch * next) override { ubatch = next; }
    bool can_reuse(const llm_graph_params &) override { return true; }

    const llama_ubatch * ubatch;
};

ubatch_follower * follower(const llm_graph_result & graph) {
    return graph.inputs.empty() ? nullptr : dynamic_cast<ubatch_follower *>(graph.inputs.back().get());
}

} // namespace

const llama_ubatch & llc::current_ubatch(struct llama_context * ctx) {
    llm_graph_result * graph = ctx->*member_of(active_graph());
    if (graph == nullptr) {
        throw std::runtime_error("a graph is computed that does not come from a batch");
    }
    ubatch_follower * found = follower(*graph);
    if (found == nullptr) {
        const llm_graph_params & params = graph->*member_of(graph_params());
        found = static_cast<ubatch_follower *>(graph->add_input(std::make_unique<ubatch_follower>(&params.ubatch)));
    }
    if (found->ubatch->data == nullptr || found->ubatch->data->batch_idxs.size() != found->ubatch->n_tokens) {
        throw std::runtime_error("a micro-batch does not know its rows");
    }
    return *found->ubatch;
}

void llc::follow_ubatches(struct llama_context * ctx) {
    llm_graph_result *& graph = ctx->*member_of(active_graph());
    if (graph != nullptr && follower(*graph) == nullptr) {
        graph = nullptr;
    }
}

bool llc::keeps_all_nextn_rows(struct llama_context * ctx) {
    const llm_graph_result * graph = ctx->*member_of(active_graph());
    return graph != nullptr && graph->t_h_nextn != nullptr &&
           graph->t_h_nextn->ne[1] > static_cast<int64_t>((graph->*member_of(graph_params())).n_outputs);
}

void llc::set_eval_callback(struct llama_context * ctx, ggml_backend_sched_eval_callback callback, void * data) {
    // upstream takes it at creation only, and hands it to its scheduler with every graph that is built
    auto & params = const_cast<llama_cparams &>(ctx->get_cparams());
    params.cb_eval           = callback;
    params.cb_eval_user_data = data;
    ggml_backend_sched_set_eval_callback(ctx->get_sched(), callback, data);
}
