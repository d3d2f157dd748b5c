"""The commands that show what there is: workloads and versions."""

import json

from rich.markup import escape

from fairlead import __version__
from fairlead.cli.app import Where
from fairlead.cli.experiments import connect
from fairlead.cli.output import out, print_json, table
from fairlead.errors import FairleadError
from fairlead.spec import Parameter


def list_workloads(where: Where) -> None:
    """Print a table of workloads."""
    with connect(where) as client:
        found = client.workloads()
    if where.as_json:
        print_json(found)
        return
    rows = table("name", "task", "data", "title")
    for workload in found:
        manifest = workload.manifest
        rows.add_row(escape(workload.name), manifest.task, manifest.data, escape(workload.title))
    out().print(rows)


def show_workload(where: Where, name: str) -> None:
    """Print a workload's parameters and metrics."""
    with connect(where) as client:
        workload = client.workload(name)
    if where.as_json:
        print_json(workload)
        return
    console = out()
    console.print(f"[bold]{escape(workload.name)}[/] {escape(workload.title)} [dim]({workload.manifest.task})[/]")
    rows = table("parameter", "type", "#default", "range", "help", title="\nParameters")
    for key, parameter in workload.manifest.parameters.items():
        default = escape(str(parameter.default))
        rows.add_row(escape(key), parameter.type, default, escape(_range_of(parameter)), escape(parameter.help))
    console.print(rows)
    manifest = workload.manifest
    if manifest.metrics:
        console.print(f"\n[dim]reports[/] {escape(', '.join(manifest.metrics))}")
    if manifest.measure is not None:
        measure = manifest.measure
        ends = f"{measure.low:g} to {measure.high:g}, {measure.better} is better"
        console.print(f"[dim]graded by[/] {escape(measure.name)}, {ends}")
    if manifest.example is not None:
        console.print(f"[dim]ready spec[/] {manifest.example}")
    if manifest.check is not None:
        console.print(f"[dim]held against its bars by[/] fairlead workloads check {escape(workload.name)}")
    if manifest.space:
        console.print("\n[dim]where a sweep may begin, for a spec:[/]\nsearch:\n  space:")
        for key, dimension in manifest.space.items():
            content = dimension.model_dump(mode="json", by_alias=True, exclude_defaults=True)
            # JSON is YAML as well
            console.print(f"    {key}: {escape(json.dumps(content))}", highlight=False, soft_wrap=True)


def version(where: Where) -> None:
    """Print this program's version and the API's."""
    try:
        with connect(where) as client:
            server = client.version()
    except FairleadError as error:
        server, why = None, str(error)
    if where.as_json:
        print_json({"client": __version__, "server": server.model_dump(mode="json") if server else None})
    elif server is None:
        out().print(f"fairlead {__version__}; no API: {escape(why)}", soft_wrap=True)
    else:
        out().print(f"fairlead {__version__}; the API is {server.version}, protocol {server.protocol}")


def _range_of(parameter: Parameter) -> str:
    if parameter.choices:
        return ", ".join(parameter.choices)
    low, high = parameter.minimum, parameter.maximum
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    return f"from {low:g}" if low is not None else (f"to {high:g}" if high is not None else "")
