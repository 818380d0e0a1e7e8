"""Memory that comes back: the same work two hundred times takes no more than a few times."""

from __future__ import annotations

import pytest

WORK = """
    import ctypes, gc, os, resource
    from decoding import feed, words
    path, arch, how, rounds = sys.argv[1:]

    def rss():
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what the C allocator keeps for later is not held by anybody
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    def work():
        model = lc.Model.load(path)
        ctx = model.context(n_ctx=512, n_seq_max=2, n_threads=1)
        chain = lc.Sampler.chain(lc.Sampler.top_k(20), lc.Sampler.dist(1))
        feed(ctx, words(30))
        for _ in range(5):
            token = chain.sample(ctx)
            feed(ctx, [token if token < 500 else 5])
        state = ctx.state.to_bytes()
        ctx.memory.clear()
        ctx.state.from_bytes(state)
        ctx.set_threads(2)  # and no decode: on a busy machine two threads wait for each other
        model.vocab.tokenize("hello world")
        try:
            ctx.decode(lc.Batch(1))
        except lc.InvalidArgumentError:
            pass
        if how == "close":
            chain.close()
            model.close()
        elif how == "model":
            model.close()

    for _ in range(20):
        work()
    gc.collect()
    before, threads = rss(), len(os.listdir("/proc/self/task"))
    for _ in range(int(rounds)):
        work()
    gc.collect()
    after = rss()
    print(f"{before / 2**20:.1f} MiB, {after / 2**20:.1f} MiB, {(after / before - 1) * 100:+.2f} %")
    assert len(os.listdir("/proc/self/task")) == threads
    assert after < before * 1.03
"""


@pytest.mark.parametrize(
    ("arch", "how"), [("llama", "close"), ("llama", "drop"), ("qwen35", "model"), ("mamba", "drop")]
)
def test_load_generate_close(run_child, tiny_path, arch, how):
    """200 rounds of loading, generating and closing (or dropping) leave the resident memory where 20 rounds left it."""
    print(run_child(WORK, tiny_path(arch), arch, how, 200, timeout=300))


def test_failures_leave_nothing_either(run_child, tiny_path, tmp_path):
    """Loads and contexts that fail or are cancelled give everything back."""
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(tiny_path().read_bytes()[:-5000])
    print(
        run_child(
            """
            import gc, resource
            path, damaged = sys.argv[1:]

            def rss():
                with open("/proc/self/statm") as file:
                    return int(file.read().split()[1]) * resource.getpagesize()

            def work():
                for call in (
                    lambda: lc.Model.load(damaged),
                    lambda: lc.Model.load(path, progress=lambda share: share < 0.5),
                    lambda: lc.Model.load(path, kv_overrides={"general.architecture": "gpt2"}),
                    lambda: model.context(type_v="q8_0", flash_attn="disabled"),
                    lambda: model.context(n_rs_seq=1, n_seq_max=300),
                    lambda: ctx.state.from_bytes(b"x" * 1000),
                    lambda: ctx.decode(gap),
                ):
                    try:
                        call()
                    except lc.LlamaCoreError:
                        continue
                    raise SystemExit("it worked")

            model = lc.Model.load(path)
            ctx = model.context(n_ctx=256, n_threads=1)
            gap = lc.Batch(2)
            gap.add(5, 0)
            gap.add(5, 5)
            for _ in range(20):
                work()
            gc.collect()
            before = rss()
            for _ in range(200):
                work()
            gc.collect()
            print(f"{before / 2**20:.1f} MiB, {(rss() / before - 1) * 100:+.2f} %")
            assert rss() < before * 1.03
            """,
            tiny_path(),
            damaged,
            timeout=300,
        )
    )
