"""The one writer to MLflow: runs, points, tags, files and model versions, each call safe to repeat.

Guarantees. Every method may be called again after any failure, with the same arguments, and leaves MLflow as one call
would. ``Unavailable``: the server does not answer, wait and repeat. ``NotFound``: somebody deleted the run, call
``ensure_run`` again. ``BadInput``: MLflow refuses this, and will again. Synchronous, one thread at a time. Apply
``server.client_environment`` before the first import.

MLflow gives creation no key of its own, so whatever is created carries the experiment's id as a tag, is looked for
first, and looked for again afterwards: a request that was repeated because its answer got lost makes two, and the
older one counts.
"""

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

import yaml
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LifecycleStage, Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException

from fairlead.errors import NotFound
from fairlead.protocol import MAX_BATCH_POINTS, MetricPoint, ModelDocument
from fairlead.tracking import trials
from fairlead.tracking.documents import EXPERIMENT_ID_TAG, RegisteredVersion, RunDocument, RunStatus, TrialRun
from fairlead.tracking.keys import MAX_PARAMS, as_params, as_tags, chunks, clean_key, flattened
from fairlead.tracking.models import Candidate, ensure_version
from fairlead.tracking.reach import reaching

DESCRIBED_TAG = "fairlead.described"
"""Hash of the last document whose parameters, tags, data set and spec are completely written."""
MAX_DIGEST_CHARACTERS = 36
_LARGE_CALL_CHARACTERS = 100_000
_LARGE_VALUES = 15
_TRAINING_VIEW = "workflowType=machine_learning"
"""Without it MLflow's web UI shows a run as an evaluation of a language model."""


class Recorder:
    """Writes to the MLflow server at ``url``; links point at ``public_url``, the same server as a browser sees it."""

    def __init__(self, url: str, *, public_url: str | None = None) -> None:
        if urlsplit(url).scheme not in ("http", "https"):
            raise ValueError(f"MLflow's address must start with http:// or https://, not {url!r}")
        self.url = url.rstrip("/")
        self.public_url = (public_url or url).rstrip("/")
        self._client = MlflowClient(tracking_uri=self.url, registry_uri=self.url)

    # ---- runs ---------------------------------------------------------------------------------------------------

    def ensure_run(self, document: RunDocument) -> str:
        """The id of the experiment's run: found by its tag, else created, and described as far as is known.

        Parameters are written once and never change; a later document may add some (the data set's digest), move
        tags, and name the data set.
        """
        with reaching(self.url):
            experiment = self._ensure_experiment(f"{document.spec.project}/{document.spec.name}")
            run = self._find_run(experiment, document.experiment_id)
            if run is None:
                self._create_run(experiment, document)
                run = self._find_run(experiment, document.experiment_id)
                assert run is not None, "just created"
            run_id: str = run.info.run_id
            if run.data.tags.get(DESCRIBED_TAG) != _fingerprint(document):
                self._describe(run_id, document, known=set(run.data.params))
            return run_id

    def log_points(self, run_id: str, points: Sequence[MetricPoint]) -> None:
        """Write points with their own times and steps; NaN and infinities too. Points sent again are absorbed.

        Keys that MLflow refuses are written as ``keys.clean_key`` says.
        """
        metrics = [Metric(clean_key(point.key), point.value, point.at_ms, point.step) for point in points]
        with reaching(self.url):
            for batch in chunks(metrics, MAX_BATCH_POINTS):
                self._client.log_batch(run_id, metrics=list(batch), synchronous=True)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags, cut to MLflow's 8,000 characters."""
        with reaching(self.url):
            self._log_in_parts(run_id, "tags", [RunTag(key, value) for key, value in as_tags(tags).items()])

    def log_text(self, run_id: str, text: str, artifact_path: str) -> None:
        """Write one text file among the run's artifacts, replacing it."""
        self.log_files(run_id, {artifact_path: text.encode()})

    def log_files(self, run_id: str, files: Mapping[str, bytes | Path]) -> None:
        """Write files among the run's artifacts, replacing them. ``files``: path in the run to content or source."""
        with tempfile.TemporaryDirectory(prefix="fairlead-") as scratch:
            for artifact_path, content in files.items():
                target = Path(scratch, _relative(artifact_path))
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
            with reaching(self.url):
                self._client.log_artifacts(run_id, scratch)

    def finish(self, run_id: str, status: RunStatus, *, ended_at_ms: int | None = None) -> None:
        """Close the run. Metrics may still arrive afterwards: MLflow fences nothing."""
        with reaching(self.url):
            self._client.set_terminated(run_id, status, ended_at_ms)

    def reopen(self, run_id: str) -> None:
        """Show the run as running again: another attempt continues it."""
        with reaching(self.url):
            self._client.update_run(run_id, status="RUNNING")

    def record_trials(self, parent_run_id: str, ended: Sequence[TrialRun]) -> list[str]:
        """Write runs of trials that have ended below their sweep's run; at most ``MOST_RUNS``, of one sweep.

        Returns the ids of the runs of the first so many, at least of one: where a server takes runs one by one, the
        rest is left for another call.
        """
        with reaching(self.url):
            return trials.write(self._client, self.url, parent_run_id, ended)

    # ---- models -------------------------------------------------------------------------------------------------

    def register_model(
        self,
        run_id: str,
        *,
        experiment_id: str,
        model_dir: Path,
        document: ModelDocument,
        name: str,
        alias: str | None = None,
        code_bundle: Path | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> RegisteredVersion:
        """Make the exported model a version of registered model ``name``, and point ``alias`` at it.

        No code of the workload is imported or run, and torch is not needed. ``code_bundle``: the uploaded zip, or the
        directory it was unpacked to. A version that this experiment has already is found again, and an alias that
        it was given once is not taken back from a newer version. Raises ``BadInput`` for files that are not those
        the document names.
        """
        candidate = Candidate(
            name=name,
            experiment_id=experiment_id,
            run_id=run_id,
            model_dir=model_dir,
            document=document,
            code_bundle=code_bundle,
            tags=as_tags(tags or {}),
        )
        with reaching(self.url):
            found = ensure_version(self._client, candidate)
            if alias is not None:
                self._point_alias(name, alias, found.version, found.tags)
        url = self.model_url(name, found.version)
        return RegisteredVersion(name=name, version=found.version, alias=alias, model_id=found.model_id, url=url)

    # ---- addresses ----------------------------------------------------------------------------------------------

    def run_url(self, run_id: str) -> str:
        """The run's page in MLflow's web UI; asks the server once for the MLflow experiment it is in."""
        with reaching(self.url):
            experiment = self._client.get_run(run_id).info.experiment_id
        return f"{self.public_url}/#/experiments/{experiment}/runs/{run_id}?{_TRAINING_VIEW}"

    def model_url(self, name: str, version: str | None = None) -> str:
        """The page of a registered model, or of one of its versions."""
        page = f"{self.public_url}/#/models/{quote(name, safe='')}" + (f"/versions/{version}" if version else "")
        return f"{page}?{_TRAINING_VIEW}"

    # ---- inside -------------------------------------------------------------------------------------------------

    def _ensure_experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = self._client.get_experiment_by_name(name)
        if found.lifecycle_stage == LifecycleStage.DELETED:
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _find_run(self, experiment: str, experiment_id: str) -> Any | None:
        """The oldest run with the tag, living ones first; younger living ones are deleted."""
        tagged = f"tags.`{EXPERIMENT_ID_TAG}` = '{_quotable(experiment_id)}'"
        runs = list(self._client.search_runs([experiment], tagged, run_view_type=ViewType.ALL, max_results=50))
        if not runs:
            return None
        first, *others = sorted(runs, key=_age)
        if _is_deleted(first):
            self._client.restore_run(first.info.run_id)
        for run in others:
            if not _is_deleted(run):
                self._client.delete_run(run.info.run_id)
        return first

    def _create_run(self, experiment: str, document: RunDocument) -> None:
        # The tag travels with the creation: a run without it would never be found again.
        tags = {EXPERIMENT_ID_TAG: document.experiment_id, "mlflow.user": document.user or "fairlead"}
        name = f"{document.spec.name}-{document.experiment_id[-8:]}"
        self._client.create_run(experiment, start_time=document.created_at_ms, tags=tags, run_name=name)

    def _describe(self, run_id: str, document: RunDocument, *, known: set[str]) -> None:
        params = as_params(_params_of(document))
        fresh = [Param(key, value) for key, value in params.items() if key not in known]
        self._log_in_parts(run_id, "params", fresh)
        tags = [RunTag(key, value) for key, value in as_tags(_tags_of(document)).items()]
        self._log_in_parts(run_id, "tags", tags)
        if document.dataset is not None:
            self._client.log_inputs(run_id, [_dataset_input(document, document.dataset)])
        self._client.log_text(run_id, _spec_yaml(document), "spec.yaml")
        self._client.set_tag(run_id, DESCRIBED_TAG, _fingerprint(document))

    def _log_in_parts(self, run_id: str, kind: str, items: Sequence[Any]) -> None:
        """MLflow takes 100 a call and a megabyte a call, JSON escapes included."""
        is_large = sum(len(item.value) for item in items) > _LARGE_CALL_CHARACTERS
        for part in chunks(items, _LARGE_VALUES if is_large else MAX_PARAMS):
            self._client.log_batch(run_id, **{kind: list(part)}, synchronous=True)

    def tag_version(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Set tags of a model version; nothing where somebody has deleted it."""
        try:
            with reaching(self.url):
                for key, value in tags.items():
                    self._client.set_model_version_tag(name, version, key, value)
        except NotFound:
            return

    def _point_alias(self, name: str, alias: str, version: str, tags: Mapping[str, str]) -> None:
        mark = f"fairlead.alias.{alias}"
        if mark in tags:
            return
        if not self._is_at_a_newer_one(name, alias, version, mark):
            self._client.set_registered_model_alias(name, alias, version)
        self._client.set_model_version_tag(name, version, mark, "set")

    def _is_at_a_newer_one(self, name: str, alias: str, version: str, mark: str) -> bool:
        """Whether it was given to a later version of ours, while this one's registration waited to be repeated."""
        at = self._client.get_registered_model(name).aliases.get(alias)
        if at is None or int(at) <= int(version):
            return False
        return mark in self._client.get_model_version(name, str(at)).tags


def _is_deleted(run: Any) -> bool:
    return bool(run.info.lifecycle_stage == LifecycleStage.DELETED)


def _age(run: Any) -> tuple[bool, int, str]:
    return _is_deleted(run), run.info.start_time, run.info.run_id


def _quotable(experiment_id: str) -> str:
    if not experiment_id.replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"an experiment's id has letters, digits, - and _ only: {experiment_id!r}")
    return experiment_id


def _relative(artifact_path: str) -> PurePosixPath:
    path = PurePosixPath(artifact_path)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"a file among the artifacts has a relative path without '..': {artifact_path!r}")
    return path


def _params_of(document: RunDocument) -> dict[str, str]:
    """The workload's parameters by their own names; what Fairlead adds begins with ``spec.`` or ``data.``."""
    spec, dataset = document.spec, document.dataset or {}
    ours: dict[str, Any] = {
        "spec.workload": spec.workload,
        "spec.resources": spec.resources.model_dump(mode="json"),
    }
    if spec.data.is_there:
        ours["spec.data.uri"] = spec.data.uri
    if spec.predictions is None:
        ours["spec.seed"] = spec.seed
        ours |= {"spec.data.split": spec.data.split.model_dump(mode="json")} if spec.data.is_there else {}
    else:
        ours["spec.predictions"] = spec.predictions.model_dump(mode="json")
    for name, asked in {"mitigation": spec.mitigation, **spec.measured}.items():
        if asked is not None:
            ours[f"spec.{name}"] = asked.model_dump(mode="json", exclude_none=True)
    known_later = {f"data.{name}": dataset[name] for name in ("digest", "num_rows", "target") if name in dataset}
    return flattened(spec.params if document.params is None else document.params) | flattened({**ours, **known_later})


def _tags_of(document: RunDocument) -> dict[str, str]:
    spec = document.spec
    optional = {
        "fairlead.code_sha256": document.code_sha256,
        "mlflow.source.git.commit": document.git_commit,
        "fairlead.data_digest": (document.dataset or {}).get("digest"),
    }
    return {
        "mlflow.source.name": spec.workload,
        "mlflow.source.type": "JOB",
        "fairlead.project": spec.project,
        "fairlead.workload": spec.workload,
        "fairlead.spec_hash": document.spec_hash,
        "fairlead.attempts": str(document.attempts),
        **{f"label.{name}": value for name, value in spec.labels.items()},
        **{f"environment.{name}": value for name, value in document.environment.items()},
        **{name: str(value) for name, value in optional.items() if value},
    }


def _dataset_input(document: RunDocument, dataset: Mapping[str, Any]) -> DatasetInput:
    """MLflow keeps 36 characters of a digest; the whole one is tag ``fairlead.data_digest`` and in the profile."""
    uri = str(dataset.get("uri", document.spec.data.uri))
    digest = str(dataset.get("digest", "")).partition(":")[2] or "unknown"
    profile = {name: dataset[name] for name in ("num_rows", "num_by_split", "digest") if name in dataset}
    schema = {name: dataset[name] for name in ("target", "classes", "attributes") if name in dataset}
    entity = Dataset(
        name=(PurePosixPath(urlsplit(uri).path).name or urlsplit(uri).netloc or uri)[:500],
        digest=digest[:MAX_DIGEST_CHARACTERS],
        source_type=urlsplit(uri).scheme or "file",
        source=json.dumps({"uri": uri}),
        schema=json.dumps(schema, default=str),
        profile=json.dumps(profile, default=str),
    )
    use = "evaluation" if document.spec.is_evaluation else "train, validation, test"
    return DatasetInput(entity, [InputTag("mlflow.data.context", use)])


def _spec_yaml(document: RunDocument) -> str:
    content = document.spec.model_dump(mode="json", by_alias=True)
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _fingerprint(document: RunDocument) -> str:
    parts: Iterable[Any] = (_params_of(document), _tags_of(document), document.dataset, document.spec_hash)
    return sha256(json.dumps([*parts], sort_keys=True, default=str).encode()).hexdigest()
