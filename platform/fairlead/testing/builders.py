"""Documents that are valid as they stand, so that a test names only what it is about."""

from typing import Any

from fairlead.protocol import FileEntry, ModelDocument
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


def a_model(**changes: Any) -> ModelDocument:
    """What a result says of an exported model of two classes, with ``changes`` on top; its files are nowhere."""
    plain: dict[str, Any] = {
        "workload": "tabular_mlp",
        "params": {},
        "config": {},
        "features": (("x", "float32"),),
        "feature_shape": (1,),
        "classes": ("no", "yes"),
        "task": "binary",
        "dataset_digest": "sha256:" + "0" * 64,
        "files": (FileEntry(path="model/weights.safetensors", size=1, sha256="0" * 64),),
    }
    return ModelDocument.model_validate({**plain, **changes})
