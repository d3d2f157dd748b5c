"""Documents that are valid as they stand, so that a test names only what it is about."""

from typing import Any

from fairlead.spec import ExperimentSpec


def a_spec(**changes: Any) -> ExperimentSpec:
    """A small valid spec with ``changes`` on top: field names, values as documents or plain mappings."""
    plain: dict[str, Any] = {
        "name": "demo",
        "workload": "tabular_mlp",
        "params": {"epochs": 2},
        "data": {"uri": "builtin://diabetes", "sensitive": ("sex", "age_band")},
    }
    return ExperimentSpec.model_validate({**plain, **changes})
