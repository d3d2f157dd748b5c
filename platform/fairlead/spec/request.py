"""The document that asks for an evaluation on a cluster, and the one reader of specs for predictions."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, StringConstraints, field_validator

from fairlead.errors import BadSpec, Problem
from fairlead.spec.document import Name, from_mapping, load_yaml
from fairlead.spec.experiment import EVALUATION, BudgetSpec, ExperimentSpec, PolicySpec, ResourcesSpec
from fairlead.spec.predictions import PredictionsSpec

_OF_TRAINING = {
    "workload": "there is nothing to run",
    "code": "there is nothing to run",
    "params": "nothing is trained",
    "seed": "counting draws no random numbers",
    "mitigation": "the predictions are made already",
    "register": "there is no model here to register",
    "data": "write the address as uri, and what the columns mean under columns",
}


class EvaluationRequest(PredictionsSpec):
    """An evaluation on a cluster: what ``fairlead evaluate`` reads, where the predictions lie, and who counts them."""

    project: Name = "default"
    uri: Annotated[str, StringConstraints(min_length=1, max_length=2000)]
    """A file of predictions, or a directory of them: ``file:///path``, a plain path that the cluster's nodes can read,
    or any address fsspec reads. Parquet, Arrow or CSV."""
    resources: ResourcesSpec = ResourcesSpec()
    """Each worker reads and counts its own part of the rows."""
    policy: PolicySpec = PolicySpec()
    budget: BudgetSpec = BudgetSpec()
    labels: dict[Name, Annotated[str, StringConstraints(max_length=200)]] = Field(default_factory=dict)

    @field_validator("uri")
    @classmethod
    def _holds_predictions(cls, uri: str) -> str:
        if uri.startswith("builtin://"):
            raise ValueError("built-in data are to train on, not predictions; name a file of predictions")
        return uri

    @property
    def experiment(self) -> ExperimentSpec:
        """The experiment that it becomes. Raises ``BadSpec``."""
        content = self.model_dump(exclude_unset=True)
        columns, uri = content.pop("columns", {}), content.pop("uri")
        more = {"name": self.name, "workload": EVALUATION, "data": {"uri": uri}, "predictions": columns}
        return from_mapping(ExperimentSpec, {**content, **more})

    @property
    def of_predictions(self) -> PredictionsSpec:
        """What ``fairlead evaluate`` needs of it."""
        return PredictionsSpec(name=self.name, columns=self.columns, evaluation=self.evaluation, gates=self.gates)


def evaluation_request(content: Any) -> EvaluationRequest:
    """Validate ``content``. Raises ``BadSpec``, which says of what belongs to training why it has no place here."""
    if isinstance(content, Mapping):
        problems = tuple(
            Problem(pointer=f"/{key}", message=f"{key} has no place in an evaluation", suggestion=why)
            for key, why in _OF_TRAINING.items()
            if key in content
        )
        if problems:
            first = problems[0]
            raise BadSpec(f"{first.pointer}: {first.message}: {first.suggestion}", problems=problems)
    return from_mapping(EvaluationRequest, content)


def read_predictions_spec(text: str) -> PredictionsSpec:
    """A ``PredictionsSpec`` in YAML or JSON, or the part of another document that is one. Raises ``BadSpec``.

    Others are an ``EvaluationRequest`` and a whole experiment's spec. Of the latter ``data`` says target, positive
    label, groups and record ids, unless it is an evaluation's; its rows are not looked at.
    """
    content = load_yaml(text)
    if isinstance(content, Mapping) and ("workload" in content or "data" in content):
        return _of_experiment(from_mapping(ExperimentSpec, content))
    if isinstance(content, Mapping) and content.keys() & _BESIDE:
        return evaluation_request({"uri": "given on the command line", **content}).of_predictions
    return from_mapping(PredictionsSpec, content)


def request_for(
    text: str, uri: str, *, columns: Mapping[str, str], project: str | None = None, workers: int | None = None
) -> EvaluationRequest:
    """The request for an evaluation of ``uri`` by a document that ``read_predictions_spec`` reads. Raises ``BadSpec``.

    ``columns``, ``project`` and ``workers`` replace what the document says. Of a spec that trains, resources, policy
    and budget are of its training, and are not taken over.
    """
    content = load_yaml(text)
    if isinstance(content, Mapping) and ("workload" in content or "data" in content):
        request = _request_of(from_mapping(ExperimentSpec, content), uri)
    else:
        request = evaluation_request({**content, "uri": uri} if isinstance(content, Mapping) else content)
    request = request.amended_columns(columns) if columns else request
    changes: dict[str, Any] = {} if project is None else {"project": project}
    if workers is not None:
        changes["resources"] = request.resources.amended(workers=workers, any_of=())
    return from_mapping(EvaluationRequest, {**request.model_dump(), **changes}) if changes else request


def _request_of(spec: ExperimentSpec, uri: str) -> EvaluationRequest:
    own = ("resources", "policy", "budget") if spec.is_evaluation else ()
    kept = spec.model_dump(include={"project", "labels", *own}, exclude_unset=True)
    return from_mapping(EvaluationRequest, {**_of_experiment(spec).model_dump(exclude_unset=True), **kept, "uri": uri})


_BESIDE = EvaluationRequest.model_fields.keys() - PredictionsSpec.model_fields.keys()


def _of_experiment(spec: ExperimentSpec) -> PredictionsSpec:
    if spec.is_evaluation:
        return spec.of_predictions
    data = spec.data
    named = {"target": data.target, "positive": data.positive, "record_id": data.record_id}
    columns = {name: value for name, value in named.items() if value is not None}
    kept = spec.model_dump(include={"name", "evaluation", "gates", "data"}, exclude_unset=True)
    bins = kept.pop("data", {}).get("bins", {})
    return from_mapping(PredictionsSpec, {**kept, "columns": {**columns, "sensitive": data.sensitive, "bins": bins}})
