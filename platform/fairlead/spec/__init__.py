"""Stage 0: what a user asks for. Frozen documents, closed to unknown keys, no input or output.

Request body, stored JSON and the runner's input are these very models: there are no twins.
"""

from fairlead.spec.data import BinSpec, DataSpec, LabelNoiseSpec, SplitSpec
from fairlead.spec.document import Document, explain, from_json, from_mapping, from_yaml
from fairlead.spec.energy import EnergySpec
from fairlead.spec.evaluation import EvaluationSpec, Evidence, GateSpec, Requirement
from fairlead.spec.experiment import (
    AlternativeSpec,
    BudgetSpec,
    CheckpointsSpec,
    ExperimentSpec,
    Label,
    Name,
    PolicySpec,
    RegisterSpec,
    ResourcesSpec,
    RetriesSpec,
    RuleSpec,
    Wish,
    json_schema,
    spec_hash,
)
from fairlead.spec.manifest import Manifest, Parameter
from fairlead.spec.mitigation import MitigationSpec
from fairlead.spec.predictions import ColumnsSpec, PredictionsSpec, read_predictions_spec
from fairlead.spec.privacy import PrivacySpec
from fairlead.spec.probes import DriftSpec, ExplanationsSpec, PerturbationSpec, ProbesSpec, TemperatureSpec

__all__ = [
    "AlternativeSpec",
    "BinSpec",
    "BudgetSpec",
    "CheckpointsSpec",
    "ColumnsSpec",
    "DataSpec",
    "Document",
    "DriftSpec",
    "EnergySpec",
    "EvaluationSpec",
    "Evidence",
    "ExperimentSpec",
    "ExplanationsSpec",
    "GateSpec",
    "Label",
    "LabelNoiseSpec",
    "Manifest",
    "MitigationSpec",
    "Name",
    "Parameter",
    "PerturbationSpec",
    "PolicySpec",
    "PredictionsSpec",
    "PrivacySpec",
    "ProbesSpec",
    "RegisterSpec",
    "Requirement",
    "ResourcesSpec",
    "RetriesSpec",
    "RuleSpec",
    "SplitSpec",
    "TemperatureSpec",
    "Wish",
    "explain",
    "from_json",
    "from_mapping",
    "from_yaml",
    "json_schema",
    "read_predictions_spec",
    "spec_hash",
]
