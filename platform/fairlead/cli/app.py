"""Every command, its options and its help. What they do is loaded when one is run, so that help appears at once."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fairlead import __version__
from fairlead.errors import FairleadError
from fairlead.rights import Role

EPILOG = (
    "Exit codes: 0 done; 1 the experiment failed or was cancelled, or an error; 2 bad usage or a bad spec; "
    "3 trained, but its gates did not pass, or no trial of a sweep keeps the constraints; 4 no API answers, or it "
    "refuses the token; 5 evaluate: a gate has no conclusion; 130 interrupted."
)

EVALUATE_EPILOG = (
    "Exit codes: 0 all gates pass, or those without a conclusion only warn; 2 bad usage, spec or data; "
    "3 a gate fails; 5 a gate has no conclusion and on_inconclusive is block. With --on-cluster those of submit."
)

MODELS_EPILOG = (
    "Exit codes: 0 nothing in the registry is flagged as an error; 3 something is: do not use it; else those of list."
)


class Commands(TyperGroup):
    """Turns what Fairlead raises on purpose into a message and an exit code, in one place."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a ``FairleadError`` is told, not traced."""
        try:
            return super().invoke(ctx)
        except FairleadError as error:
            from fairlead.cli.output import exit_code_of, tell

            tell(error, as_json=getattr(ctx.obj, "as_json", False))
            raise typer.Exit(exit_code_of(error)) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


@dataclass
class Where:
    """Which API the commands talk to, and how they answer."""

    home: Path | None = None
    url: str | None = None
    as_json: bool = False


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
    help="Train deep-learning models on Ray clusters, and keep honest books about them.",
)
workloads_app = typer.Typer(cls=Commands, help="List the built-in training programs, or show one.")
app.add_typer(workloads_app, name="workloads", rich_help_panel="Look")
cluster_app = typer.Typer(cls=Commands, no_args_is_help=True, help="Empty a cluster, open it again, or give it up.")
app.add_typer(cluster_app, name="cluster", rich_help_panel="Operate")
nodes_app = typer.Typer(cls=Commands, help="List the nodes of clusters, or give one no more workers.")
app.add_typer(nodes_app, name="nodes", rich_help_panel="Operate")
webhooks_app = typer.Typer(cls=Commands, help="List the addresses that hear of events, or change one.")
app.add_typer(webhooks_app, name="webhooks", rich_help_panel="Operate")
tokens_app = typer.Typer(cls=Commands, no_args_is_help=True, help="Make tokens, find them again, take them back.")
app.add_typer(tokens_app, name="tokens", rich_help_panel="Operate")
projects_app = typer.Typer(
    cls=Commands, no_args_is_help=True, help="Projects: who has which role in them, and what they may hold at once."
)
app.add_typer(projects_app, name="projects", rich_help_panel="Operate")

Id = Annotated[str, typer.Argument(metavar="ID", help="The experiment's id, as submit and list print it.")]
SweepId = Annotated[str, typer.Argument(metavar="SWEEP", help="The sweep's id, as submit and list print it.")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Follow it to its end.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to standard output.")]
Home = Annotated[
    Path | None, typer.Option(help="Data directory of the embedded stack.", envvar="FAIRLEAD_HOME", file_okay=False)
]
ProjectName = Annotated[str, typer.Argument(metavar="PROJECT")]
ClusterName = Annotated[str, typer.Argument(metavar="NAME", help="The cluster's name, as clusters prints it.")]
NodeId = Annotated[
    str, typer.Argument(metavar="NODE", help="The node's id, as nodes prints it, or a beginning that no other has.")
]
OfCluster = Annotated[str | None, typer.Option(help="Only nodes of this cluster.")]
WebhookId = Annotated[str, typer.Argument(metavar="ID", help="The webhook's id, as webhooks prints it.")]
Reason = Annotated[str, typer.Option(help="Why you know; it is written into the experiment's events.")]
SpecFile = Annotated[str, typer.Argument(metavar="SPEC", help="A YAML or JSON file; - reads standard input.")]
Code = Annotated[
    Path | None, typer.Option(help="Upload this directory as the workload's code.", exists=True, file_okay=False)
]


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    home: Home = None,
    url: Annotated[
        str | None, typer.Option(help="Address of the API; its token comes from FAIRLEAD_TOKEN.", envvar="FAIRLEAD_URL")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Remember which API to talk to."""
    context.obj = Where(home=home, url=url)


def _where(context: typer.Context, as_json: bool) -> Where:
    where = context.find_object(Where)
    assert where is not None, "the callback sets it"
    where.as_json = as_json
    return where


# ---- the stack ------------------------------------------------------------------------------------------------------


@app.command(rich_help_panel="Run")
def up(
    context: typer.Context,
    home: Home = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="CPUs that Ray may use; all by default.")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs that Ray may use; all by default.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of the API; 8170 or a free one.")] = None,
    mlflow_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of MLflow; 8171 or a free one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Start everything on this machine and serve until Ctrl-C: API, MLflow, Ray and its agent, all on loopback."""
    from fairlead.cli.local import serve

    where = _where(context, as_json)
    serve(home or where.home, cpus=cpus, gpus=gpus, port=port, mlflow_port=mlflow_port, as_json=as_json)


class Demonstration(StrEnum):
    """What ``demo`` shows."""

    TRAINING = "training"
    FAIRNESS = "fairness"
    SWEEP = "sweep"


class TrialStateName(StrEnum):
    """States that ``trials`` may be asked for."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    PRUNED = "pruned"
    FAILED = "failed"


class TrialOrder(StrEnum):
    """How ``trials`` may be ordered."""

    BEST = "best"
    NO = "no"
    LATEST = "-no"
    VALUE = "value"
    VALUE_DOWN = "-value"
    STARTED_AT = "started_at"
    STARTED_AT_DOWN = "-started_at"
    ENDED_AT = "ended_at"
    ENDED_AT_DOWN = "-ended_at"
    STATE = "state"
    STATE_DOWN = "-state"


@app.command(rich_help_panel="Run")
def demo(
    context: typer.Context,
    what: Annotated[
        Demonstration,
        typer.Argument(
            help="training: one experiment. fairness: a model that fails its gate, and mitigation. sweep: 40 trials, "
            "accuracy against the gap between the sexes."
        ),
    ] = Demonstration.TRAINING,
    spec: Annotated[
        Path | None, typer.Option(help="training, sweep: another spec than the ready one.", exists=True)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="fairness, sweep: where the report pages go; fairness-demo or sweep-demo by default.",
        ),
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Keep the data in this directory; a temporary one by default.", file_okay=False)
    ] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="CPUs that Ray may use; all by default.")] = None,
    as_json: Json = False,
) -> None:
    """Start a stack, train a demonstration on it, show what came out, and leave no process behind."""
    _where(context, as_json)
    if what is Demonstration.TRAINING:
        from fairlead.cli.local import demonstrate

        raise typer.Exit(demonstrate(spec, keep=keep, cpus=cpus, as_json=as_json))
    if what is Demonstration.SWEEP:
        from fairlead.cli.sweep_demo import demonstrate_sweep

        raise typer.Exit(demonstrate_sweep(spec, output or Path("sweep-demo"), keep=keep, cpus=cpus, as_json=as_json))
    if spec is not None:
        raise typer.BadParameter("the fairness demonstration has specs of its own", param_hint="--spec")
    from fairlead.cli.fairness import demonstrate_fairness

    raise typer.Exit(demonstrate_fairness(output or Path("fairness-demo"), keep=keep, cpus=cpus, as_json=as_json))


# ---- experiments ----------------------------------------------------------------------------------------------------


@app.command(rich_help_panel="Run", epilog=EPILOG)
def submit(
    context: typer.Context,
    spec: SpecFile,
    code: Code = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it to its end.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the id only.")] = False,
    key: Annotated[str | None, typer.Option(help="Idempotency key: the same key and spec submit once.")] = None,
    as_json: Json = False,
) -> None:
    """Submit a spec; prints the experiment's id."""
    from fairlead.cli import experiments

    where = _where(context, as_json)
    raise typer.Exit(experiments.submit(where, spec, code=code, is_watched=watch, is_quiet=quiet, key=key))


@app.command(rich_help_panel="Run")
def plan(context: typer.Context, spec: SpecFile, code: Code = None, as_json: Json = False) -> None:
    """Check a spec and tell where it would run, without queueing it."""
    from fairlead.cli import experiments

    raise typer.Exit(experiments.plan(_where(context, as_json), spec, code=code))


@app.command(rich_help_panel="Run")
def manifest(
    spec: SpecFile,
    code: Code = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the one that is there.")] = False,
) -> None:
    """Write the manifest of a workload of your own: its parameters, by which specs are then checked."""
    from fairlead.cli.manifests import write_manifest

    write_manifest(Path(spec), code=code, is_forced=force)


@app.command(rich_help_panel="Look", epilog=EPILOG)
def watch(context: typer.Context, experiment_id: Id, as_json: Json = False) -> None:
    """Follow an experiment to its end. Ctrl-C leaves it running."""
    from fairlead.cli import experiments

    raise typer.Exit(experiments.watch(_where(context, as_json), experiment_id))


@app.command(rich_help_panel="Look")
def logs(
    context: typer.Context,
    experiment_id: Id,
    rank: Annotated[int, typer.Option(min=0, help="Which worker.")] = 0,
    attempt: Annotated[int | None, typer.Option(min=1, help="Which attempt; the latest by default.")] = None,
    tail: Annotated[int | None, typer.Option("--tail", "-n", min=1, help="Only the last so many lines.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the experiment has ended.")] = False,
    stacks: Annotated[bool, typer.Option("--stacks", help="What its threads were doing when it stalled.")] = False,
    trial: Annotated[int | None, typer.Option(min=0, help="Of a sweep: which trial.")] = None,
    as_json: Json = False,
) -> None:
    """Print what a worker printed; of a sweep, with --trial, what a trial's worker printed."""
    from fairlead.cli import experiments

    where = _where(context, as_json)
    if stacks:
        return experiments.stacks(where, experiment_id, rank=rank, attempt=attempt)
    experiments.logs(where, experiment_id, rank=rank, attempt=attempt, trial=trial, tail=tail, is_followed=follow)


@app.command("list", rich_help_panel="Look")
def list_experiments(
    context: typer.Context,
    state: Annotated[str | None, typer.Option(help="Only those in this state.")] = None,
    project: Annotated[str | None, typer.Option(help="Only those of this project.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 20,
    as_json: Json = False,
) -> None:
    """List experiments."""
    from fairlead.cli import experiments

    experiments.list_experiments(_where(context, as_json), state=state, project=project, limit=limit)


@app.command(rich_help_panel="Look")
def show(
    context: typer.Context,
    experiment_id: Id,
    events: Annotated[bool, typer.Option("--events", "-e", help="Also everything that happened to it.")] = False,
    as_json: Json = False,
) -> None:
    """Show how an experiment stands, and why."""
    from fairlead.cli import experiments

    experiments.show(_where(context, as_json), experiment_id, has_events=events)


@app.command(rich_help_panel="Look")
def queue(
    context: typer.Context,
    project: Annotated[str | None, typer.Option(help="Only those of this project.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="At most so many.")] = 20,
    as_json: Json = False,
) -> None:
    """Show who waits, in order: why, and when each might start."""
    from fairlead.cli import turns

    turns.queue(_where(context, as_json), project=project, limit=limit)


@app.command(rich_help_panel="Look")
def why(context: typer.Context, experiment_id: Id, as_json: Json = False) -> None:
    """Say why an experiment is not running, who is ahead, and when it might start."""
    from fairlead.cli import turns

    turns.why(_where(context, as_json), experiment_id)


@projects_app.command("quota")
def quota(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="PROJECT", help="The project's name.")],
    limits: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="gpus=8, cpus=64, workers=, experiments=4, weight=2; nothing after = lifts a limit."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a project may hold at once and what it holds; or set it."""
    from fairlead.cli import turns

    turns.quota(_where(context, as_json), name, limits=limits or [])


@app.command(rich_help_panel="Run")
def cancel(context: typer.Context, experiment_id: Id, as_json: Json = False) -> None:
    """Ask an experiment to end. A second time changes nothing."""
    from fairlead.cli import experiments

    experiments.cancel(_where(context, as_json), experiment_id)


@app.command(rich_help_panel="Run")
def pause(context: typer.Context, experiment_id: Id, as_json: Json = False) -> None:
    """Ask an experiment to stop after a checkpoint and to wait. Its place in the queue is kept."""
    from fairlead.cli import experiments

    experiments.pause(_where(context, as_json), experiment_id)


@app.command(rich_help_panel="Run")
def resume(context: typer.Context, experiment_id: Id, as_json: Json = False) -> None:
    """Ask a paused experiment to go on from its last checkpoint."""
    from fairlead.cli import experiments

    experiments.resume(_where(context, as_json), experiment_id)


@app.command(rich_help_panel="Run")
def release(context: typer.Context, experiment_id: Id, as_json: Json = False) -> None:
    """Let a held experiment go on, with fresh retry budgets; an evaluation that broke is made again."""
    from fairlead.cli import experiments

    experiments.release(_where(context, as_json), experiment_id)


@app.command(rich_help_panel="Operate")
def override(
    context: typer.Context,
    experiment_id: Id,
    gate: Annotated[str, typer.Option(help="Which gate, as report prints it.")],
    reason: Annotated[str, typer.Option(help="Why the model may pass all the same; signed with your name.")],
    expires: Annotated[datetime | None, typer.Option(help="When somebody must look again, UTC.")] = None,
    as_json: Json = False,
) -> None:
    """Let a model pass a gate that it has not passed. The outcome shown stays; your name and reason stand beside it."""
    from fairlead.cli import experiments

    experiments.override(_where(context, as_json), experiment_id, gate, reason=reason, expires=expires)


@app.command("declare-lost", rich_help_panel="Operate")
def declare_lost(
    context: typer.Context,
    experiment_id: Id,
    reason: Reason,
    attempt: Annotated[int, typer.Option(min=1, help="Which attempt, as show prints it.")],
    force: Annotated[bool, typer.Option("--force", help="Even though its agent sees it at work.")] = False,
    as_json: Json = False,
) -> None:
    """Vouch for the death of an attempt that nobody can see, so that the next may begin."""
    from fairlead.cli import experiments

    where = _where(context, as_json)
    experiments.declare_lost(where, experiment_id, attempt, reason=reason, is_forced=force)


# ---- sweeps ---------------------------------------------------------------------------------------------------------


@app.command(rich_help_panel="Look")
def trials(
    context: typer.Context,
    sweep_id: SweepId,
    state: Annotated[TrialStateName | None, typer.Option(help="Only those in this state.")] = None,
    sort: Annotated[
        TrialOrder, typer.Option(help="best: by the first objective, those first that keep the constraints.")
    ] = TrialOrder.BEST,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 20,
    is_all: Annotated[bool, typer.Option("--all", help="All of them, however many.")] = False,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write all to a CSV file; - is standard output.", dir_okay=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """List the trials of a sweep, the best first."""
    from fairlead.cli import sweeps

    most = None if is_all or csv is not None else limit
    sweeps.list_trials(_where(context, as_json), sweep_id, state=state, sort=sort, limit=most, csv_file=csv)


@app.command(rich_help_panel="Look")
def trial(
    context: typer.Context,
    sweep_id: SweepId,
    no: Annotated[int, typer.Argument(metavar="NO", min=0, help="The trial's number, as trials prints it.")],
    as_json: Json = False,
) -> None:
    """Show all that is known of one trial: parameters, values, curves, and why it ended."""
    from fairlead.cli import sweeps

    sweeps.show_trial(_where(context, as_json), sweep_id, no)


@app.command(rich_help_panel="Run")
def amend(
    context: typer.Context,
    sweep_id: SweepId,
    add_trials: Annotated[int | None, typer.Option(metavar="N", min=1, help="So many more trials.")] = None,
    concurrency: Annotated[int | None, typer.Option(metavar="N", min=1, help="Trials at a time, at most.")] = None,
    priority: Annotated[int | None, typer.Option(metavar="N", min=0, max=100, help="Another priority.")] = None,
    enqueue: Annotated[
        list[str] | None,
        typer.Option(
            metavar="POINT",
            help="Try this next: 'lr=0.01,hidden=\\[16]', or a mapping in YAML or JSON; may be repeated.",
        ),
    ] = None,
    stop_trial: Annotated[int | None, typer.Option(metavar="NO", min=0, help="Stop one trial that runs.")] = None,
    as_json: Json = False,
) -> None:
    """Change a sweep that runs. Each change is kept under a number, with your name; the spec stays as it is."""
    from fairlead.cli import sweeps

    sweeps.amend(
        _where(context, as_json),
        sweep_id,
        add_trials=add_trials,
        concurrency=concurrency,
        priority=priority,
        enqueue=enqueue or [],
        stop_trial=stop_trial,
    )


@app.command(rich_help_panel="Run")
def finish(context: typer.Context, sweep_id: SweepId, as_json: Json = False) -> None:
    """End a sweep gracefully: no trial is begun any more, those that run may end, the best is kept."""
    from fairlead.cli import sweeps

    sweeps.finish(_where(context, as_json), sweep_id)


@app.command(rich_help_panel="Run", epilog=EPILOG)
def extend(
    context: typer.Context,
    sweep_id: SweepId,
    trials: Annotated[int, typer.Option(metavar="N", min=1, help="So many more trials.")],
    watch: Watch = False,
    as_json: Json = False,
) -> None:
    """Go on from a sweep that has ended: a new one that knows its finished trials. Prints the new one's id."""
    from fairlead.cli import sweeps

    raise typer.Exit(sweeps.extend(_where(context, as_json), sweep_id, trials=trials, is_watched=watch))


@app.command(rich_help_panel="Run", epilog=EPILOG)
def promote(
    context: typer.Context,
    sweep_id: SweepId,
    trial: Annotated[
        int | None,
        typer.Option(
            metavar="NO", min=0, help="Which trial; the best by default. Of a Pareto front one must be named."
        ),
    ] = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train it again, even where its last checkpoint is there.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="The new experiment's name; the sweep's by default.")] = None,
    watch: Watch = False,
    as_json: Json = False,
) -> None:
    """Judge a trial on the test split, which no trial has seen, and put it through the gates. Prints the new id."""
    from fairlead.cli import sweeps

    code = sweeps.promote(
        _where(context, as_json), sweep_id, trial=trial, is_trained_again=retrain, name=name, is_watched=watch
    )
    raise typer.Exit(code)


# ---- clusters -------------------------------------------------------------------------------------------------------


@app.command(rich_help_panel="Look")
def clusters(context: typer.Context, as_json: Json = False) -> None:
    """List the Ray clusters, what is in use, and why one gets no work."""
    from fairlead.cli import clusters as commands

    commands.list_clusters(_where(context, as_json))


@cluster_app.command()
def drain(context: typer.Context, name: ClusterName, as_json: Json = False) -> None:
    """No new work for it; what runs there goes on to its end."""
    from fairlead.cli import clusters as commands

    commands.drain(_where(context, as_json), name)


@cluster_app.command()
def activate(context: typer.Context, name: ClusterName, as_json: Json = False) -> None:
    """Work for it again, after it was drained, suspected or retired."""
    from fairlead.cli import clusters as commands

    commands.activate(_where(context, as_json), name)


@cluster_app.command()
def label(
    context: typer.Context,
    name: ClusterName,
    labels: Annotated[
        list[str], typer.Argument(metavar="NAME=VALUE...", help="gpu=h100 zone=a; nothing after = takes one away.")
    ],
    as_json: Json = False,
) -> None:
    """Say what it is, for 'resources.labels' of specs to ask for."""
    from fairlead.cli import clusters as commands

    commands.label(_where(context, as_json), name, labels=labels)


@cluster_app.command()
def retire(
    context: typer.Context,
    name: ClusterName,
    reason: Reason,
    force: Annotated[
        bool, typer.Option("--force", help="Even though its agent answers and has open attempts.")
    ] = False,
    as_json: Json = False,
) -> None:
    """It is gone: its open attempts are declared lost, and begin again elsewhere."""
    from fairlead.cli import clusters as commands

    commands.retire(_where(context, as_json), name, reason=reason, is_forced=force)


# ---- nodes ----------------------------------------------------------------------------------------------------------


@nodes_app.callback(invoke_without_command=True)
def nodes(context: typer.Context, cluster: OfCluster = None, as_json: Json = False) -> None:
    """List the nodes of clusters, or give one no more workers."""
    if context.invoked_subcommand is None:
        from fairlead.cli import nodes as commands

        commands.list_nodes(_where(context, as_json), cluster=cluster)


@nodes_app.command("exclude")
def exclude_node(
    context: typer.Context,
    node: NodeId,
    why: Annotated[str, typer.Option(help="Why: everybody who sees the cluster may read it.")],
    cluster: OfCluster = None,
    as_json: Json = False,
) -> None:
    """No more workers for it; what runs there goes on."""
    from fairlead.cli import nodes as commands

    commands.exclude(_where(context, as_json), node, why=why, cluster=cluster)


@nodes_app.command("readmit")
def readmit_node(context: typer.Context, node: NodeId, cluster: OfCluster = None, as_json: Json = False) -> None:
    """Workers for it again: what died there before counts no more."""
    from fairlead.cli import nodes as commands

    commands.readmit(_where(context, as_json), node, cluster=cluster)


# ---- webhooks -------------------------------------------------------------------------------------------------------


@webhooks_app.callback(invoke_without_command=True)
def webhooks(context: typer.Context, as_json: Json = False) -> None:
    """List the addresses that hear of events, or change one."""
    if context.invoked_subcommand is None:
        from fairlead.cli import webhooks as commands

        commands.list_webhooks(_where(context, as_json))


@webhooks_app.command("add")
def add_webhook(
    context: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="An https address.")],
    project: Annotated[str | None, typer.Option(help="Only events of this project.")] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="Only this kind of event, or this state; may be repeated.")
    ] = None,
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    as_json: Json = False,
) -> None:
    """Register an address; prints its id and its secret, this once."""
    from fairlead.cli import webhooks as commands

    commands.add(_where(context, as_json), url, project=project, kinds=kind or [], description=description)


@webhooks_app.command("rotate")
def rotate_webhook(
    context: typer.Context,
    webhook_id: WebhookId,
    keep_old_s: Annotated[
        int, typer.Option(min=0, max=604_800, help="Seconds for which the secret before signs as well.")
    ] = 86_400,
    as_json: Json = False,
) -> None:
    """Make a new secret; prints it, this once."""
    from fairlead.cli import webhooks as commands

    commands.rotate(_where(context, as_json), webhook_id, keep_old_s=keep_old_s)


@webhooks_app.command("enable")
def enable_webhook(context: typer.Context, webhook_id: WebhookId, as_json: Json = False) -> None:
    """Send to it again; what waits goes out at once."""
    from fairlead.cli import webhooks as commands

    commands.switch(_where(context, as_json), webhook_id, is_enabled=True)


@webhooks_app.command("disable")
def disable_webhook(context: typer.Context, webhook_id: WebhookId, as_json: Json = False) -> None:
    """Send it nothing more, until it is enabled."""
    from fairlead.cli import webhooks as commands

    commands.switch(_where(context, as_json), webhook_id, is_enabled=False)


@webhooks_app.command("remove")
def remove_webhook(context: typer.Context, webhook_id: WebhookId, as_json: Json = False) -> None:
    """Forget it with all that was to be sent to it."""
    from fairlead.cli import webhooks as commands

    commands.remove(_where(context, as_json), webhook_id)


@webhooks_app.command("test")
def send_test_message(context: typer.Context, webhook_id: WebhookId, as_json: Json = False) -> None:
    """Send a message that is about nothing."""
    from fairlead.cli import webhooks as commands

    commands.test(_where(context, as_json), webhook_id)


@webhooks_app.command("deliveries")
def list_deliveries(
    context: typer.Context,
    webhook_id: WebhookId,
    state: Annotated[str | None, typer.Option(help="Only those that are pending, delivered or failed.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 20,
    as_json: Json = False,
) -> None:
    """Show its newest messages and how their tries went."""
    from fairlead.cli import webhooks as commands

    commands.deliveries(_where(context, as_json), webhook_id, state=state, limit=limit)


@webhooks_app.command("replay")
def replay_webhook(
    context: typer.Context,
    webhook_id: WebhookId,
    message: Annotated[list[str] | None, typer.Option(help="This message; may be repeated.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All that were given up.")] = False,
    hours: Annotated[float | None, typer.Option(min=0, help="Every event of the last so many hours.")] = None,
    as_json: Json = False,
) -> None:
    """Send messages once more, under their old ids."""
    from fairlead.cli import webhooks as commands

    where = _where(context, as_json)
    commands.replay(where, webhook_id, messages=message or [], is_failed=failed, hours=hours)


# ---- who may do what ------------------------------------------------------------------------------------------------


@app.command(rich_help_panel="Look")
def whoami(context: typer.Context, as_json: Json = False) -> None:
    """Print whose token this is, and what it may do."""
    from fairlead.cli import access

    access.whoami(_where(context, as_json))


@tokens_app.command("create")
def create_token(
    context: typer.Context,
    name: Annotated[str | None, typer.Option("--for", help="The member it speaks for; yourself by default.")] = None,
    label: Annotated[str, typer.Option(help="What it is for, to find it again.")] = "",
    project: Annotated[str | None, typer.Option(help="The only project that it is good for.")] = None,
    role: Annotated[Role | None, typer.Option(help="The highest role that it is good for.")] = None,
    days: Annotated[float | None, typer.Option(help="It ends after so many; with your own by default.")] = None,
    cluster: Annotated[str | None, typer.Option(help="Make an agent's token, for this cluster.")] = None,
    as_json: Json = False,
) -> None:
    """Make a token; it is shown this once. It reaches no further than the one you ask with."""
    from fairlead.cli import access

    kind = "user" if cluster is None else "agent"
    content = {"kind": kind, "name": name, "label": label, "project": project, "role": role, "cluster": cluster}
    access.create_token(_where(context, as_json), {**content, "lifetime_days": days})


@tokens_app.command("list")
def list_tokens(context: typer.Context, as_json: Json = False) -> None:
    """List your tokens, and those of projects that you are an admin of."""
    from fairlead.cli import access

    access.list_tokens(_where(context, as_json))


@tokens_app.command("revoke")
def revoke_token(
    context: typer.Context, token_id: Annotated[str, typer.Argument(metavar="ID")], as_json: Json = False
) -> None:
    """Take a token back: it works no more from this moment."""
    from fairlead.cli import access

    access.revoke_token(_where(context, as_json), token_id)


@projects_app.command("list")
def list_projects(context: typer.Context, as_json: Json = False) -> None:
    """List the projects that you may see, and your role in each."""
    from fairlead.cli import access

    access.list_projects(_where(context, as_json))


@projects_app.command("create")
def create_project(context: typer.Context, name: ProjectName, as_json: Json = False) -> None:
    """Create a project."""
    from fairlead.cli import access

    access.create_project(_where(context, as_json), name)


@projects_app.command("members")
def members(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="PROJECT", help="Absent: roles in all projects.")] = None,
    put: Annotated[
        list[str] | None, typer.Option("--set", metavar="MEMBER=ROLE", help="Give a role: viewer, editor or admin.")
    ] = None,
    remove: Annotated[list[str] | None, typer.Option(metavar="MEMBER", help="Take a role away.")] = None,
    as_json: Json = False,
) -> None:
    """Show who has which role in a project, after changing roles where that is asked for."""
    from fairlead.cli import access

    changes: dict[str, Role | None] = dict.fromkeys(remove or [])
    for text in put or []:
        member, _, role = text.partition("=")
        if not member or role not in list(Role):
            raise typer.BadParameter(
                f"write MEMBER=ROLE with one of {', '.join(Role)}, not {text!r}", param_hint="--set"
            )
        changes[member] = Role(role)
    access.members(_where(context, as_json), name, changes=changes)


@app.command(rich_help_panel="Operate")
def audit(
    context: typer.Context,
    project: Annotated[str | None, typer.Option(help="Only what was written in this project.")] = None,
    actor: Annotated[str | None, typer.Option(help="Only what this member wrote.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 50,
    as_json: Json = False,
) -> None:
    """Show who wrote what, newest first; with --json one line each."""
    from fairlead.cli import access

    access.audit(_where(context, as_json), project=project, actor=actor, limit=limit)


# ---- reports and catalogue ------------------------------------------------------------------------------------------


@app.command(rich_help_panel="Look", epilog=MODELS_EPILOG)
def models(
    context: typer.Context,
    project: Annotated[str | None, typer.Option(help="Only those of this project.")] = None,
    name: Annotated[str | None, typer.Option(help="Only versions of this model.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many versions.")] = 50,
    as_json: Json = False,
) -> None:
    """List registered models, and what in MLflow is not what was registered: why, and what to do."""
    from fairlead.cli import models as commands

    raise typer.Exit(commands.list_models(_where(context, as_json), project=project, name=name, limit=limit))


@app.command(rich_help_panel="Look")
def report(
    context: typer.Context,
    experiment_id: Annotated[
        str, typer.Argument(metavar="ID", help="The experiment's id, or a file: report.json or sweep.json.")
    ],
    is_opened: Annotated[bool, typer.Option("--open", help="Write the page to a file and open a browser.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write the page to this file.", dir_okay=False)] = None,
    link: Annotated[bool, typer.Option("--link", help="Print an address that opens without a token, briefly.")] = False,
    profile: Annotated[
        str | None,
        typer.Option(
            help="Print it in another layout: four_fifths, nyc_ll144, eu_ai_act_annex_iv, model_card or cyclonedx."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what the evaluation found: overall, for each group, and what became of the gates."""
    from fairlead.cli import reporting

    where = _where(context, as_json)
    wanted = reporting.Wanted(is_opened=is_opened, html=html, is_linked=link, profile=profile)
    reporting.report(where, experiment_id, wanted)


@app.command(rich_help_panel="Look")
def verify(
    context: typer.Context,
    report: Annotated[
        Path,
        typer.Argument(
            metavar="REPORT",
            help="A report.json or sweep.json, or the record of an override.",
            dir_okay=False,
            exists=True,
        ),
    ],
    key: Annotated[
        str | None,
        typer.Option(metavar="BASE64", help="The public key that must have signed it; by default the server's."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that a report is as the server signed it: exit code 0 if so, 2 if not.

    version prints the server's public key. Keep it with the reports: then they can be checked without the server.
    """
    from fairlead.cli import reporting

    reporting.verify(_where(context, as_json), report, key=key)


@app.command(rich_help_panel="Run", epilog=EVALUATE_EPILOG)
def evaluate(
    context: typer.Context,
    predictions: Annotated[
        list[str],
        typer.Argument(
            metavar="PREDICTIONS...",
            help="Parquet, Arrow (Feather) or CSV files, or directories of them; one table. Addresses (s3://…), too.",
        ),
    ],
    spec: Annotated[
        str, typer.Option(metavar="FILE", help="What to measure: YAML or JSON, see above; - reads standard input.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Where report.json and report.html go; report by default."),
    ] = None,
    state: Annotated[Path | None, typer.Option(metavar="FILE", help="Keep the counts, too: a mergeable state.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=NAME",
            help="Another column: target, prediction, champion, score, rank, query, weight or record_id.",
        ),
    ] = None,
    created: Annotated[
        datetime | None, typer.Option(help="The report's time stamp, UTC, to repeat it byte for byte; now by default.")
    ] = None,
    on_cluster: Annotated[
        bool,
        typer.Option("--on-cluster", help="Have a cluster do it, as an experiment: one file, directory or address."),
    ] = False,
    project: Annotated[str | None, typer.Option(help="With --on-cluster: whose experiment it is.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="With --on-cluster: how many share the rows.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="With --on-cluster: follow it to its end.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="With --on-cluster: print the id only.")] = False,
    key: Annotated[str | None, typer.Option(help="With --on-cluster: idempotency key, as for submit.")] = None,
    as_json: Json = False,
) -> None:
    """Measure predictions made elsewhere: an experiment's report and gates, without training.

    FILE is a whole experiment spec (of data: target, positive, sensitive, bins, record_id; evaluation; gates),
    or a document of its own, in which everything may be left out:

    \b
    name: credit                 # of the report
    columns:
      target: label              # true class
      prediction: prediction     # predicted class; else score >= threshold
      champion: said_before      # none unless named; what gates mean by champion
      score: score               # of the positive class, or {class: column, ...}
      weight: w                  # none unless named
      record_id: id              # none unless named; none may occur twice
      classes: ["no", "yes"]     # those that the target has
      positive: "yes"            # the last class
      sensitive: \\[sex, age_band] # those that groupings and gates name
      bins: {age_band: {column: age, edges: [40, 60]}}
      query: list_id             # of a ranking; target is then the relevance, score or rank the place
    evaluation:
      task: classification       # or regression (target and prediction are numbers), or ranking
      groupings: [\\[sex], \\[sex, age_band]]
      threshold: 0.5
      min_support: 30
      on_inconclusive: block     # or warn
    gates:
      - metric: demographic_parity_difference
        by: \\[sex]
        require: "<= 0.10"
    """
    from fairlead.cli import evaluate as command

    where = _where(context, as_json)
    here = {"--output": output, "--state": state, "--created": created}
    there = {"--project": project, "--workers": workers, "--watch": watch, "--quiet": quiet, "--key": key}
    command.refuse_others(there if not on_cluster else here, is_on_cluster=on_cluster)
    if on_cluster:
        code = command.evaluate_on_cluster(
            where,
            predictions,
            spec=spec,
            columns=column or [],
            project=project,
            workers=workers,
            is_watched=watch,
            is_quiet=quiet,
            key=key,
        )
    else:
        code = command.evaluate(
            where,
            predictions,
            spec=spec,
            output=output or Path("report"),
            state=state,
            columns=column or [],
            created=created,
        )
    raise typer.Exit(code)


@workloads_app.callback(invoke_without_command=True)
def workloads(context: typer.Context, as_json: Json = False) -> None:
    """List the built-in training programs, or show one."""
    if context.invoked_subcommand is None:
        from fairlead.cli import catalogue

        catalogue.list_workloads(_where(context, as_json))


@workloads_app.command("show")
def show_workload(
    context: typer.Context, name: Annotated[str, typer.Argument(metavar="NAME")], as_json: Json = False
) -> None:
    """Show a training program's parameters."""
    from fairlead.cli import catalogue

    catalogue.show_workload(_where(context, as_json), name)


@workloads_app.command("check")
def check_workload(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A workload installed here, or all.")],
    short: Annotated[bool, typer.Option("--short", help="A few seconds that still learn, one seed.")] = False,
    seeds: Annotated[int | None, typer.Option(min=1, max=1000, help="How many seeds; 5, of the short form 1.")] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write what was measured to DIR/NAME.json as well.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a workload here, without a server, and say whether it is as good as it must be: its bars, over seeds.

    Ends with 1 where a bar is not met.
    """
    from fairlead.cli import checks

    if not checks.check(name, is_short=short, num_seeds=seeds, save=save, as_json=as_json):
        raise typer.Exit(1)


@app.command(rich_help_panel="Look")
def schema() -> None:
    """Print the spec's JSON Schema, for editors and other languages."""
    from fairlead.cli.output import print_json
    from fairlead.spec import json_schema

    print_json(json_schema())


@app.command(rich_help_panel="Look")
def version(context: typer.Context, as_json: Json = False) -> None:
    """Print the version of this program and of the API, if one answers."""
    from fairlead.cli import catalogue

    catalogue.version(_where(context, as_json))
