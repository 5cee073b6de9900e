"""All benchmarks of the compressors, one after the other, each in a process of its own.

| question | script |
| --- | --- |
| how small is the file before accuracy is lost? | `size.py` |
| which criterion of pruning loses the least accuracy? | `criteria.py` |
| how good is an encoder in 8 and 4 bits? | `encoder.py` |
| how much faster is a network that was cut by half, in 8 bits? | `export.py` |
| how much of the gap to its teacher does a student close? | `distillation.py` |
| how fast is the file written and read? | `file_speed.py` |

Run those that measure time on a quiet machine.

    python tests/benchmarks/compress.py [--only size encoder ...] [--smoke]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

SCRIPTS = ("size", "criteria", "encoder", "export", "distillation", "file_speed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=SCRIPTS, metavar="SCRIPT")
    parser.add_argument("--smoke", action="store_true", help="show within minutes that all of them run")
    options = parser.parse_args()
    failed = []
    for name in options.only:
        print(f"== {name}", flush=True)
        command = [sys.executable, str(Path(__file__).with_name(f"{name}.py")), *["--smoke"] * options.smoke]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
