"""The worker group of an attempt: one ``TorchTrainer.fit()``, restarted by Ray Train when a rank dies."""

from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

from fairlead.protocol import LaunchDocument
from fairlead.run.environment import collective_timeout_s, elsewhere
from fairlead.run.places import Places
from fairlead.run.rendezvous import BoundTorchConfig
from fairlead.run.virtual import command_line
from fairlead.run.worker import Assignment, work

GROUP_RESTARTS = 3


class SteadySize(FixedScalingPolicy):
    """A fixed group that asks no autoscaler: placement has already found room for all of it.

    Ray's coordinator would be one process for the whole cluster, owned by whichever attempt came first.
    """

    def after_controller_start(self, train_run_context: Any) -> None:
        """Ask for nothing."""

    def _maybe_send_resource_request(self) -> None:
        """Ask for nothing."""

    def _cancel_resource_request(self) -> None:
        """There is nothing to take back."""


class LeanTrainer(TorchTrainer):
    """Without two processes an attempt never needs: data come from our own layer, and the runner sweeps its groups.

    Ray has no public switch for either; its version is pinned, and a test counts the actors.
    """

    _SUPERFLUOUS = (DatasetsCallback, PlacementGroupCleanerCallback)

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        arguments["scaling_policy"] = SteadySize(self.scaling_config)
        arguments["callbacks"] = [each for each in arguments["callbacks"] if not isinstance(each, self._SUPERFLUOUS)]
        return super()._initialize_and_run_controller(**arguments)


def fit(document: LaunchDocument, places: Places) -> None:
    """Train to the end. Raises what Ray Train raises when it gives up."""
    resources = document.spec.resources
    per_worker = {"CPU": resources.cpus_per_worker}
    if resources.gpus_per_worker:
        per_worker["GPU"] = resources.gpus_per_worker
    assignment = Assignment(
        document=document.model_dump_json(by_alias=True),
        attempt=str(places.attempt),
        code=str(places.code) if places.code else None,
        environment=places.environment,
    )
    restarts = GROUP_RESTARTS + (places.environment is not None)  # once it begins again in what it has built
    LeanTrainer(
        work,
        train_loop_config={"assignment": assignment},
        torch_config=BoundTorchConfig(
            backend="nccl" if resources.gpus_per_worker else "gloo", timeout_s=collective_timeout_s(document.spec)
        ),
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=per_worker,
            label_selector=elsewhere(document.excluded_nodes),
        ),
        run_config=RunConfig(
            name=document.runner_name,
            storage_path=str(places.bookkeeping),
            failure_config=FailureConfig(max_failures=restarts, controller_failure_limit=GROUP_RESTARTS),
            worker_runtime_env={"py_executable": command_line(places.environment)} if places.environment else None,
        ),
    ).fit()
