"""The benchmarks are no part of the distribution, so the repository's root is not on the path of tests by itself."""

import sys
from pathlib import Path

ROOT = str(Path(__file__).parents[3])
if ROOT not in sys.path:
    sys.path.append(ROOT)  # last: nothing there may hide a library
