"""The benchmarks are scripts that find each other beside themselves; so do their tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
