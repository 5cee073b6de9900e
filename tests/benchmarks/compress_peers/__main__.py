"""All criteria and schemes of nbcompress against other libraries, on the same networks and budgets.

    python tests/benchmarks/compress_peers --smoke        one split, one epoch: does it run?
    python tests/benchmarks/compress_peers                everything, 5 seeds of 2 splits; about an hour of one core
    python tests/benchmarks/compress_peers --families bits --nets conv --seeds 2
    python tests/benchmarks/compress_peers --report       tables and figure from the runs so far
    python tests/benchmarks/compress_peers --breaks       what happens where other libraries fail

Three small networks learn handwritten digits (`nets`). Then weights are set to zero (`weights`), channels are cut
(`channels`), or weights are stored in few bits (`bits`). The same loop tunes all of them. Every run is a line of
`results/compress_peers/runs.jsonl`. A run that is there is not repeated; `--again torchao` removes those of a package.
The report names a library that is not installed or fails, with its error. One thread.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import one_thread  # noqa: E402, F401 (before NumPy and PyTorch, which read it once)
import torch  # noqa: E402
from methods import OURS, Method  # noqa: E402
from nets import NETS  # noqa: E402
from runs import forget, read, run_all  # noqa: E402

FAMILIES = ("weights", "channels", "bits")


def methods_of(families: list[str], *, smoke: bool) -> list[Method]:
    found = [method for family in families for method in importlib.import_module(family).METHODS]
    # NNCF's calibration compiles an extension when it is first used, which takes minutes.
    return [method for method in found if not (smoke and method.by == "nncf" and method.name == "static inputs")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="the encoder at one split, hardly trained")
    parser.add_argument("--report", action="store_true", help="run nothing, report what was run")
    parser.add_argument("--breaks", action="store_true", help="only the table of where peers break")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--again", nargs="+", default=[], metavar="PACKAGE", help=f"forget its runs; ours is {OURS}")
    parser.add_argument("--results", type=Path, default=HERE.parent / "results" / "compress_peers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    folder: Path = options.results / "smoke" if options.smoke else options.results
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "runs.jsonl"
    if options.breaks:
        print(_breaks(folder))
        return
    forget(path, options.again)
    if not options.report:
        methods = methods_of(options.families, smoke=options.smoke)
        if options.smoke:
            run_all(path, methods, ["encoder"], range(1), n_folds=1, n_budgets=1, epochs=1, tuning=1)
        else:
            run_all(path, methods, options.nets, range(options.seeds))
    from report import write_report

    print(write_report(folder, read(path)))
    if not (options.report or options.smoke):
        print(_breaks(folder))


def _breaks(folder: Path) -> str:
    from breaks import write_breaks

    return write_breaks(folder)


if __name__ == "__main__":
    main()
