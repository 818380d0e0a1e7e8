"""Ctrl-C between any two lines while objects are made or moved: it may cost memory, but frees nothing twice."""

from __future__ import annotations

from llamacore.testing import tiny_model

CHILD = """
import gc
from llamacore.core.speculative import MtpSession, mtp_context

FILES = ("_handle.py", "speculative.py", "sampler_chain.py", "sampler_handle.py")
LOCKS = ("_enter", "_exit", "_held", "_wait_for_users")  # a lock that is taken then is waited for without end

class Interrupt:
    \"\"\"KeyboardInterrupt before the n-th line of these files.\"\"\"
    def __init__(self, n):
        self.left = n
    def __call__(self, frame, event, arg):
        if not frame.f_code.co_filename.endswith(FILES) or frame.f_code.co_name in LOCKS:
            return None
        if event == "line":
            self.left -= 1
            if not self.left:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self

def interrupted(work):
    \"\"\"Run it again and again, interrupted one line later each time, until it comes to its end.\"\"\"
    n = 0
    while True:
        n += 1
        sys.settrace(Interrupt(n))
        try:
            work()
            sys.settrace(None)
            return n
        except (KeyboardInterrupt, lc.BusyError):  # a call that was cut off has not given back what it used
            pass
        finally:
            sys.settrace(None)
        gc.collect()

model = lc.Model.load(sys.argv[1], load_mtp=True)
S = lc.Sampler

def chain():
    made = [S.top_k(3), S.dist(1)]
    try:
        whole = S.chain(*made, model=model)
        whole.add(S.greedy())
    except BaseException:
        for one in made:
            try:
                one.close()
            except lc.BusyError:
                pass
        raise
    whole.close()

def constrained():
    grammar, plain = S.grammar(model, 'root ::= "a"'), S.chain(S.greedy())
    try:
        S.constrained(grammar, plain).close()
    except BaseException:
        for one in (grammar, plain):
            try:
                one.close()
            except lc.BusyError:
                pass
        raise

def session():
    target = model.context(n_ctx=64, n_threads=1, n_rs_seq=3)
    try:
        draft = mtp_context(target)
        try:
            MtpSession(target, draft).close()
        finally:
            try:
                draft.close()
            except lc.BusyError:
                pass
    finally:
        try:
            target.close()
        except lc.BusyError:
            pass

print(*(interrupted(work) for work in (chain, constrained, session)))
"""


def test_an_interrupt_at_every_line(run_child, tmp_path):
    path = tiny_model(tmp_path / "model.gguf", arch="qwen35", n_nextn=1)
    lines = [int(count) for count in run_child(CHILD, path).split()]
    assert min(lines) > 50
