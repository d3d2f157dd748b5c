"""A laptop without Ray, torch or MLflow can submit and ask."""

import subprocess
import sys

import pytest

HEAVY = "{'ray', 'torch', 'mlflow', 'numpy', 'scipy', 'pandas', 'pyarrow', 'sqlalchemy', 'fastapi', 'psutil'}"


@pytest.mark.parametrize("module", ["fairlead", "fairlead.client", "fairlead.cli"])
def test_the_sdk_loads_nothing_heavy(module: str) -> None:
    program = f"import sys, {module}\nprint(sorted({HEAVY} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == "[]"
