"""Stage 0: what a user asks for. Frozen documents, closed to unknown keys, no input or output.

Request body, stored JSON and the runner's input are these very models: there are no twins.
"""

from fairlead.spec.data import NO_DATA, BinSpec, DataSpec, LabelNoiseSpec, SplitSpec, TextSpec, WindowsSpec
from fairlead.spec.document import Document, Name, explain, from_json, from_mapping, from_yaml
from fairlead.spec.energy import EnergySpec
from fairlead.spec.environment import EnvironmentSpec
from fairlead.spec.evaluation import EvaluationSpec, Evidence, GateSpec, Requirement
from fairlead.spec.experiment import (
    EVALUATION,
    AlternativeSpec,
    BudgetSpec,
    CheckpointsSpec,
    ExperimentSpec,
    Label,
    PolicySpec,
    RegisterSpec,
    ResourcesSpec,
    RetriesSpec,
    RuleSpec,
    TrialRef,
    Wish,
    json_schema,
    spec_hash,
)
from fairlead.spec.manifest import DataKind, Manifest, MeasureSpec, Parameter
from fairlead.spec.mitigation import MitigationSpec
from fairlead.spec.predictions import ColumnsSpec, PredictionsSpec
from fairlead.spec.privacy import PrivacySpec
from fairlead.spec.probes import (
    AttributionsSpec,
    DriftSpec,
    ExplanationsSpec,
    PerturbationSpec,
    ProbesSpec,
    TemperatureSpec,
)
from fairlead.spec.request import EvaluationRequest, evaluation_request, read_predictions_spec, request_for
from fairlead.spec.search import SearchSpec

__all__ = [
    "EVALUATION",
    "NO_DATA",
    "AlternativeSpec",
    "AttributionsSpec",
    "BinSpec",
    "BudgetSpec",
    "CheckpointsSpec",
    "ColumnsSpec",
    "DataKind",
    "DataSpec",
    "Document",
    "DriftSpec",
    "EnergySpec",
    "EnvironmentSpec",
    "EvaluationRequest",
    "EvaluationSpec",
    "Evidence",
    "ExperimentSpec",
    "ExplanationsSpec",
    "GateSpec",
    "Label",
    "LabelNoiseSpec",
    "Manifest",
    "MeasureSpec",
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
    "SearchSpec",
    "SplitSpec",
    "TemperatureSpec",
    "TextSpec",
    "TrialRef",
    "WindowsSpec",
    "Wish",
    "evaluation_request",
    "explain",
    "from_json",
    "from_mapping",
    "from_yaml",
    "json_schema",
    "read_predictions_spec",
    "request_for",
    "spec_hash",
]
