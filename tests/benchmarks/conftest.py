"""The benchmarks import each other from their own folder, so their tests need it on the path."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
