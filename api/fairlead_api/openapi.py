"""The API's description of itself: request bodies that we read by hand, problems, examples."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from fairlead import __version__
from fairlead.representation import ProblemView
from fairlead_api.access import USER, kind_for
from fairlead_api.problems import PROBLEM_TYPE
from fairlead_api.rules import Reach, rule_for

_REF = "#/components/schemas/{model}"
_bodies: dict[str, type[BaseModel]] = {}
_WHAT = {
    400: "A header is missing or makes no sense",
    401: "No token, or not one for this address",
    404: "Nothing has that name, or this token may not do this with it",
    405: "The address has no such method",
    408: "The body did not arrive in time",
    409: "The request contradicts what is stored",
    412: "It has changed since you looked (If-Match)",
    413: "The body is too large",
    415: "The body has a type that is not read here",
    422: "The document or a parameter cannot be used; `errors` says where and why",
    428: "`If-Match` is missing",
    429: "A cap is reached; ask again after `Retry-After` seconds",
    503: "A part that is needed does not answer; ask again after `Retry-After` seconds",
}
EXAMPLE_SPEC: Mapping[str, Any] = {
    "name": "diabetes-risk",
    "workload": "tabular_mlp",
    "data": {
        "uri": "builtin://diabetes",
        "target": "progression_above_median",
        "sensitive": ["sex", "age_band"],
        "split": {"train": 0.6, "validation": 0.1, "test": 0.3, "seed": 0},
    },
    "resources": {"workers": 2, "cpus_per_worker": 1},
    "evaluation": {"groupings": [["sex"], ["age_band"], ["sex", "age_band"]], "min_support": 30},
    "gates": [
        {"metric": "demographic_parity_difference", "by": ["sex"], "require": "<= 0.30"},
        {"metric": "accuracy_score", "require": ">= 0.60"},
    ],
    "register": {"name": "diabetes-risk", "alias": "candidate"},
    "seed": 0,
}
EXAMPLE_EVALUATION: Mapping[str, Any] = {
    "name": "credit-scores",
    "uri": "s3://models/credit/predictions.parquet",
    "columns": {"target": "repaid", "positive": "yes", "score": "p_yes", "record_id": "applicant"},
    "evaluation": {"groupings": [["sex"], ["sex", "region"]], "min_support": 30},
    "gates": [{"metric": "demographic_parity_difference", "by": ["sex"], "require": "<= 0.10"}],
    "resources": {"workers": 2},
}
DESCRIPTION = """Train deep-learning models on Ray clusters, and keep honest books about them.

Post a spec; it is admitted, queued, placed on a cluster, trained data-parallel, evaluated for accuracy and for
differences between groups, and, if its gates pass, registered. Every error is `application/problem+json`
([what each code means](/docs/problems)).
"""


class ProblemDocument(BaseModel):
    """RFC 9457 problem details."""

    type: str = Field(description="An address that explains `code`.")
    title: str
    status: int
    detail: str = Field(description="What happened, and what to do next.")
    instance: str
    code: str = Field(description="For programs; open to additions.")
    request_id: str
    errors: tuple[ProblemView, ...] = ()


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route."""
    content = {PROBLEM_TYPE: {"schema": {"$ref": _REF.format(model="ProblemDocument")}}}
    return {status: {"description": _WHAT[status], "content": content} for status in sorted({*statuses, 503})}


def takes(model: type[BaseModel], example: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """``openapi_extra`` of a route whose JSON body is ``model``."""
    _bodies[model.__name__] = model
    content: dict[str, Any] = {"schema": {"$ref": _REF.format(model=model.__name__)}}
    if example is not None:
        content["example"] = example
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title="Fairlead",
            version=__version__,
            description=DESCRIPTION,
            routes=app.routes,
            separate_input_output_schemas=False,
            tags=[{"name": name, "description": text} for name, text in _TAGS.items()],
        )
        _complete(document)
        app.openapi_schema = document
    return app.openapi_schema


_TAGS = {
    "experiments": "Specs and their lives.",
    "sweeps": "Trials of sweeps, and what may be changed while they run.",
    "progress": "What happens while they run, and what is left of them.",
    "models": "Registered models, and whether MLflow still has them as they were registered.",
    "workloads": "Training programs and uploaded code.",
    "webhooks": "Events pushed to addresses of yours, as Standard Webhooks.",
    "clusters": "Where experiments run.",
    "people": "Projects, members, tokens, and who wrote what.",
    "server": "The server itself.",
    "agents": "For the agents inside Ray clusters; their protocol is versioned by `attach`.",
}


def _complete(document: dict[str, Any]) -> None:
    components = document.setdefault("components", {})
    models: list[type[BaseModel]] = [*_bodies.values(), ProblemDocument]
    _, found = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
    for name, schema in found.get("$defs", {}).items():
        components.setdefault("schemas", {}).setdefault(name, schema)
    components["schemas"].pop("HTTPValidationError", None)
    components["schemas"].pop("ValidationError", None)
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer", "description": "`fl_<id>_<secret>`"}}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            _complete_operation(method.upper(), path, operation)


def _complete_operation(method: str, path: str, operation: dict[str, Any]) -> None:
    if kind_for(path) is not None:
        operation["security"] = [{"token": []}]
    ours = {str(status): answer for status, answer in problems(401, 404, 422, 429).items()}
    answers = operation["responses"]
    if "HTTPValidationError" in str(answers.get("422")):
        answers["422"] = ours["422"]
    if kind_for(path) is not None:
        answers.setdefault("401", ours["401"])
    if kind_for(path) == USER:
        rule = rule_for(method, path)
        operation["description"] = f"{operation.get('description', '')}\n\nFor: {rule}."
        answers.setdefault("429", ours["429"])
        if rule.reach is not Reach.ANYWHERE:
            answers.setdefault("404", ours["404"])
