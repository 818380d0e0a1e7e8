"""Makes a smaller model file and shows what became of it: `python examples/quantize.py [MODEL.gguf [TYPE]]`."""

import sys
import tempfile
from pathlib import Path

import llamacore as lc
from llamacore.hub import demo_model_path


def main() -> None:
    """Run the example."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else demo_model_path()
    ftype = lc.Ftype.parse(sys.argv[2] if len(sys.argv) > 2 else "Q4_0")
    plan = lc.quantize(source, ftype=ftype, allow_requantize=True, dry_run=True)
    print(f"{source.name} as {ftype.description}:", end=" ")
    print(f"{plan.size_before >> 10} KiB would become {plan.size_after >> 10} KiB")

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "small.gguf")
        result = lc.quantize(source, target, ftype, allow_requantize=True)
        print(f"{result.bits_per_weight:.2f} bits per weight, {result.seconds:.2f} s")
        for path in (source, target):
            with lc.Llama(path) as llm:
                print(f"{llm.model.ftype:15} {llm.generate('Once upon a time', max_tokens=20, temperature=0).text!r}")


if __name__ == "__main__":
    main()
