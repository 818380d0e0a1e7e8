"""What a decode of several tokens of one text costs beside one of a single token: `batch_costs.py MODEL N_THREADS`.

Prints one JSON object: the milliseconds of a single token in a context that keeps no snapshots of recurrent states, and
by number of tokens the time over that in one that does. Speculation verifies n drafted tokens with a decode of n + 1.
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import llamacore as lc

SIZES = (1, 2, 4)
N_BEFORE, N_DECODE, ROUNDS = 64, 16, 9
SETTLE_SECONDS = 0.05  # compute threads spin for a while after their last work


def seconds(context: lc.Context, size: int) -> float:
    """Mean time of a decode of `size` tokens with outputs, behind a short text."""
    batch = lc.Batch(n_tokens=max(N_BEFORE, size))
    time.sleep(SETTLE_SECONDS)
    context.memory.clear()
    batch.add_tokens(list(range(300, 300 + N_BEFORE)))
    context.decode(batch)
    spent = 0.0
    for number in range(N_DECODE):
        batch.clear()
        for place in range(size):
            batch.add(400 + place, N_BEFORE + number * size + place, output=True)
        started = time.perf_counter()
        context.decode(batch)
        context.synchronize()
        spent += time.perf_counter() - started
    return spent / N_DECODE


def main() -> None:
    """Measure in turns: medians over the rounds of the ratio within a round."""
    path, n_threads = sys.argv[1], int(sys.argv[2])
    with (
        lc.Model.load(path) as model,
        model.context(n_ctx=512, n_threads=n_threads) as plain,
        model.context(n_ctx=512, n_threads=n_threads, n_rs_seq=max(SIZES) - 1) as snapshots,
    ):
        singles, ratios = [], {size: [] for size in SIZES}
        for _ in range(ROUNDS):
            singles.append(seconds(plain, 1))
            for size, row in ratios.items():
                row.append(seconds(snapshots, size) / singles[-1])
    found = {"ms": statistics.median(singles) * 1e3}
    print(json.dumps(found | {f"{size} over 1": statistics.median(row) for size, row in ratios.items()}))


if __name__ == "__main__":
    main()
