// Which rows of the batch a computation is made of: upstream cuts a batch into micro-batches and may reorder it.
#pragma once

#include "llama-context.h"

namespace llc {

// The micro-batch that a context computes at the moment; only valid inside an evaluation callback of that context.
// Each row's place in the batch is in data->batch_idxs.
const llama_ubatch & current_ubatch(struct llama_context * ctx);

// Forces the next graph to be built anew unless current_ubatch() can already follow the graph that may be used again.
void follow_ubatches(struct llama_context * ctx);

// Whether the last graph had more rows of next-n states than outputs.
bool keeps_all_nextn_rows(struct llama_context * ctx);

// Installs an evaluation callback, or takes it away; a context without one computes each graph in one piece.
void set_eval_callback(struct llama_context * ctx, ggml_backend_sched_eval_callback callback, void * data);

} // namespace llc
