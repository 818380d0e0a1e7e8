"""Speculation by hand with a model's own MTP heads: `python examples/mtp_loop.py [MODEL.gguf]`."""

import sys
import time

import llamacore as lc
from llamacore.core.sample_rows import RowSampler
from llamacore.core.speculative import MtpSession, MtpSessionConfig, mtp_context
from llamacore.hub import demo_model_path

N_DRAFT_MAX = 3
N_PREDICT = 120


def main() -> None:
    """Run the example."""
    path = sys.argv[1] if len(sys.argv) > 1 else demo_model_path()
    with lc.Model.load(path, load_mtp=True) as model:
        if not model.n_layer_nextn:
            print("This model has no MTP heads.")
            return
        # n_rs_seq: how many rejected tokens a recurrent or hybrid model can take back
        with (
            model.context(n_ctx=512, n_rs_seq=N_DRAFT_MAX) as target,
            mtp_context(target) as draft,
            MtpSession(target, draft, MtpSessionConfig(n_draft_max=N_DRAFT_MAX)) as session,
            lc.Sampler.greedy() as sampler,
        ):
            prompt = model.vocab.tokenize("Once upon a time")
            text = list(prompt)
            rows = RowSampler(1, N_DRAFT_MAX)
            batch = lc.Batch(n_tokens=512)

            # the prompt but for its last token, which the first draft continues
            batch.add_tokens(prompt[:-1])
            target.decode(batch)
            session.process(batch)
            session.begin(0, prompt[:-1])

            start = time.perf_counter()
            while len(text) < len(prompt) + N_PREDICT and not model.vocab.is_eog(text[-1]):
                n_past = len(text) - 1
                proposal = session.draft(0, n_past, text[-1])
                draft.memory.seq_rm(0, n_past)  # what drafting has left there

                batch.clear()
                batch.add_tokens([text[-1], *proposal], pos=n_past, outputs="all")
                target.decode(batch)
                session.process(batch)

                (tokens,) = rows.sample_drafts(target, [0], [sampler], [proposal])
                if isinstance(tokens, lc.LlamaCoreError):
                    raise tokens
                if proposal:
                    session.accept(0, len(tokens) - 1)  # the last one is the target's own
                for token in tokens:
                    text.append(token)
                    if model.vocab.is_eog(token):
                        break
                for context in (target, draft):
                    context.memory.seq_rm(0, len(text) - 1)  # what was rejected
            seconds = time.perf_counter() - start

            print(model.vocab.detokenize(text), end="\n\n")
            stats = session.stats()
            shares = ", ".join(f"{share:.0%}" for share in stats.acceptance_per_position)
            print(f"{stats.accepted} of {stats.drafted} drafted tokens accepted; by place: {shares}")
            print(f"{stats.mean_length:.2f} tokens a step, {(len(text) - len(prompt)) / seconds:.0f} a second")


if __name__ == "__main__":
    main()
