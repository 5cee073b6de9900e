"""A search passes through few modules, so that a reader can follow it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "count_modules.py"
MOST = {"nc.search": 60, "%%bo_search": 85}


def test_a_search_passes_through_few_modules() -> None:
    # In a process of its own, since coverage, a profiler and modules that other tests loaded change what is counted.
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    counted = {name: int(n) for name, n in re.findall(r"^(\S+): (\d+) modules,", done.stdout, re.MULTILINE)}
    assert set(counted) == set(MOST), done.stdout
    assert {name: n for name, n in counted.items() if n > MOST[name]} == {}
