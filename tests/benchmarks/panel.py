"""What the panel costs a search, measured in a real kernel and a real browser; one command, about five minutes.

    python tests/benchmarks/panel.py [--trials 200] [--seconds 0.2] [--pairs 3]

Searches with the live panel and with `--panel off` take turns, in fresh kernels. Reported for each pair: the seconds
on the clock until the last trial ended and their ratio; the processor seconds of the kernel and what the panel adds to
them as a share of the time, which other programs disturb less; and the seconds that the closing output takes. Then how
long a finished study takes to be shown again, and how long a page takes for 10,000 trials.
Run it on a quiet machine; the load is reported. The issue's bounds: 2 % of the search, 3 s for the closing output,
1 s for 10,000 trials, 150 kB of JavaScript.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "browser")]

from kernels import Kernel  # noqa: E402

LIVE, OFF = "auto", "off"
MOST_SHARE, MOST_CLOSING, MOST_PAGE, MAX_BYTES = 0.02, 3.0, 1_000.0, 150_000

SETUP = """
%load_ext nbcompress
import json, time
from nbcompress.panels import live, text_panel
from nbcompress.run import loop
class Watch:
    pass
watch = Watch()
def clocked(kind):
    plain = kind.finish
    def finish(self, ending):
        watch.ended = (time.perf_counter(), time.process_time())
        plain(self, ending)
        watch.closing = (time.perf_counter() - watch.ended[0], time.process_time() - watch.ended[1])
    kind.finish = finish
clocked(live.LivePanel)
clocked(text_panel.SilentPanel)
"""
SEARCH = """
watch.begun = (time.perf_counter(), time.process_time())
get_ipython().run_cell_magic("bo_search", "--trials {trials} --maximize score --study {name} --panel {panel}", '''
a = Float(0, 1)
b = Float(1e-4, 1e-1, log=True)
c = Int(1, 64, log=True)
d = Choice("plain", "deep")
e = Float(0, 1)
time.sleep({seconds})
score = 1 - (a - .3) ** 2 - (e - .6) ** 2 - .01 * c * b - (d == "deep") * .1
''')
"""
REPORT = """
print("@" + json.dumps(dict(wall=watch.ended[0] - watch.begun[0], cpu=watch.ended[1] - watch.begun[1],
                            closing=watch.closing[0], closing_cpu=watch.closing[1])))
"""
AGAIN = """
begun = time.perf_counter()
get_ipython().run_line_magic("bo_study", "{name}")
print("@" + json.dumps(dict(again=time.perf_counter() - begun)))
"""


def measured(kernel: Kernel, code: str) -> dict[str, float]:
    reply = kernel.must(code, timeout=900)
    found: dict[str, float] = json.loads(reply.text.rsplit("@", 1)[1])
    return found


def search(panel: str, name: str, folder: Path, options: argparse.Namespace) -> tuple[dict[str, float], float]:
    """Run one search in a kernel of its own; return its times, and how long it takes to be shown again."""
    kernel = Kernel(folder)
    try:
        kernel.must(SETUP)
        # Imports on first use are not part of the comparison.
        kernel.must(SEARCH.format(trials=12, name=f"warm-{name}", panel=panel, seconds=0.0))
        kernel.must(SEARCH.format(trials=options.trials, name=name, panel=panel, seconds=options.seconds), timeout=900)
        took = measured(kernel, REPORT)
        again = measured(kernel, AGAIN.format(name=name))["again"] if panel == LIVE else float("nan")
        return took, again
    finally:
        kernel.close()


def compare(options: argparse.Namespace) -> dict[str, Any]:
    rows = []
    for pair in range(options.pairs):
        order = (LIVE, OFF) if pair % 2 == 0 else (OFF, LIVE)
        with tempfile.TemporaryDirectory() as folder:
            took = {panel: search(panel, f"s{pair}-{panel}", Path(folder), options) for panel in order}
        (live, again), (off, _) = took[LIVE], took[OFF]
        row = {
            "ratio": live["wall"] / off["wall"],
            "added cpu": (live["cpu"] - off["cpu"]) / off["wall"],
            "closing": live["closing"] - off["closing"],
            "closing cpu": live["closing_cpu"] - off["closing_cpu"],
            "shown again": again,
            "wall live": live["wall"],
            "wall off": off["wall"],
        }
        print(f"pair {pair}: " + ", ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)
        rows.append(row)
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def page() -> dict[str, Any]:
    from lab import browser
    from many_trials import timed

    with browser() as running:
        return {what: took.wall for what, took in timed(running).items()}


def sizes() -> dict[str, int]:
    import nbcompress

    package = Path(nbcompress.__file__).parent
    built = [*package.glob("panels/static/*.js"), *package.glob("labextension/static/*.js")]
    return {path.name: path.stat().st_size for path in built}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    medians = compare(options)
    shown = page()
    bytes_ = sizes()
    verdicts = [
        ("time added to the search", medians["ratio"] - 1, MOST_SHARE, "{:.2%}"),
        ("processor time added, as a share", medians["added cpu"], MOST_SHARE, "{:.2%}"),
        ("closing output", medians["closing"], MOST_CLOSING, "{:.2f} s"),
        *((f"10,000 trials: {what}", wall, MOST_PAGE, "{:.0f} ms") for what, wall in shown.items()),
        *((name, size, MAX_BYTES, "{:,} bytes") for name, size in bytes_.items()),
    ]
    print(f"\nmedians of {options.pairs} pairs of {options.trials} trials of {options.seconds} s")
    for what, value, bound, form in verdicts:
        verdict = "met" if value <= bound else "MISSED"
        print(f"  {what:42} {form.format(value):>14}   bound {form.format(bound):>14}   {verdict}")
    print(f"  {'closing output, processor time':42} {medians['closing cpu']:>12.2f} s")
    print(f"  {'a finished study shown again':42} {medians['shown again']:>12.2f} s")
    print(f"load after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
