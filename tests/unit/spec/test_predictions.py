"""The documents that docs/evaluate.md shows are accepted."""

import re
from pathlib import Path

import pytest

from fairlead.spec import read_predictions_spec

PAGE = (Path(__file__).parents[3] / "docs" / "evaluate.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_documents_of_the_page_are_accepted(text: str) -> None:
    spec = read_predictions_spec(text)
    assert spec.gates
    expected = {"diabetes-elsewhere": ("sex", "age_band")}.get(spec.name, spec.sensitive)
    assert spec.sensitive == expected
    assert spec.sensitive
