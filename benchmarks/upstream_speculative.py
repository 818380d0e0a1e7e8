"""Upstream's llama-speculative-simple, built from the pinned source with synthetic acceptance put into it.

Upstream's server can accept drafted tokens at given rates instead of by what the model says, which makes random-weight
models useful for measuring; its example cannot. The three changes below teach it, by text: when the pinned source no
longer has a line that is replaced, building fails and says which.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from upstream import tools_folder

import llamacore_sys
from build_support.cache import cache_dir
from build_support.program import Libraries, compile_program, upstream_source

_RATES = "LLAMA_ARG_SPEC_SYNTH_RATES"  # upstream's own name of the option in the environment

_CHANGES = (
    ("#include <algorithm>\n", "#include <algorithm>\n#include <cstdlib>\n#include <random>\n"),
    (
        "    if (params.n_predict < -1) {\n",
        f"""    if (const char * given = std::getenv("{_RATES}")) {{
        for (const auto & rate : string_split<std::string>(given, ',')) {{
            params.speculative.synth_rates.push_back(std::stod(rate));
        }}
    }}
    std::mt19937 synth_rng(params.sampling.seed);
    std::uniform_real_distribution<double> synth_draw(0.0, 1.0);

    if (params.n_predict < -1) {{
""",
    ),
    (
        "        auto ids = common_sampler_sample_and_accept_n(smpl.get(), ctx_tgt, draft);\n",
        """        llama_tokens ids;
        const auto & synth_probs = common_speculative_get_synth_probs(spec);
        if (synth_probs.empty()) {
            ids = common_sampler_sample_and_accept_n(smpl.get(), ctx_tgt, draft);
        } else {
            GGML_ASSERT(!use_ckpt_tgt && draft.size() <= synth_probs.size());
            for (bool more = true; more;) {
                const size_t at = ids.size();
                const llama_token chosen = common_sampler_sample(smpl.get(), ctx_tgt, (int) at);
                more = at < draft.size() && synth_draw(synth_rng) < synth_probs[at] &&
                       !llama_vocab_is_eog(vocab, draft[at]);
                ids.push_back(more ? draft[at] : chosen);
                common_sampler_accept(smpl.get(), ids.back(), !more);
            }
        }
""",
    ),
)


@dataclass(frozen=True)
class Drafted:
    """What one run of the example says of itself.

    Attributes:
        n_tokens: Tokens generated.
        seconds: Time from the end of the prompt to the last token.
        n_drafted: Tokens drafted.
        n_accepted: Drafted tokens accepted.
    """

    n_tokens: int
    seconds: float
    n_drafted: int
    n_accepted: int

    @property
    def tokens_per_second(self) -> float:
        """Rate of generation."""
        return self.n_tokens / self.seconds

    @property
    def tokens_per_step(self) -> float:
        """Tokens that one decode of the model gives, its own one included."""
        return self.n_tokens / (self.n_tokens - self.n_accepted)


def changed(text: str) -> str:
    """The example's source with synthetic acceptance; SystemExit when a line to replace is not in it exactly once."""
    for old, new in _CHANGES:
        if text.count(old) != 1:
            raise SystemExit(f"upstream's speculative-simple.cpp has {old.strip()!r} {text.count(old)} times, not once")
        text = text.replace(old, new)
    return text


def build() -> Path:
    """The program, built once; upstream's libraries are built first, which takes minutes."""
    commit = llamacore_sys.UPSTREAM.commit
    libraries = Libraries(tools_folder(("llama-batched-bench",)), commit)
    source = upstream_source(Libraries(Path(llamacore_sys.lib_dir), commit))
    text = changed((source / "examples" / "speculative-simple" / "speculative-simple.cpp").read_text(encoding="utf-8"))
    here = cache_dir() / "bench" / "speculative-simple.cpp"
    aside = here.with_name(f"{here.name}.{os.getpid()}.part")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, here)
    return compile_program("llama-speculative-simple", [here], libraries, options=("-O2", "-Wl,--as-needed"))


def run(program: Path, arguments: Sequence[str], rates: Sequence[float] = ()) -> Drafted:
    """Run it once; with `rates` each drafted token is accepted at the rate of its place.

    Raises:
        SystemExit: It failed or did not say its figures.
    """
    environment = {name: value for name, value in os.environ.items() if name != _RATES}
    if rates:
        environment[_RATES] = ",".join(map(str, rates))
    done = subprocess.run([str(program), *arguments], capture_output=True, env=environment, check=False)
    said = (done.stdout + done.stderr).decode(errors="replace")  # random tokens are not always UTF-8
    timed = re.search(r"decoded +(\d+) tokens in +([\d.]+) seconds", said)
    counts = [re.search(rf"{name} += (\d+)", said) for name in ("n_drafted", "n_accept")]
    if done.returncode or timed is None or None in counts:
        raise SystemExit(f"{program.name} ended with status {done.returncode}:\n{said[-2000:]}")
    n_drafted, n_accepted = (int(count[1]) for count in counts if count is not None)
    return Drafted(int(timed[1]), float(timed[2]), n_drafted, n_accepted)
