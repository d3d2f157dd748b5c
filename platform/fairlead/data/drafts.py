"""A first manifest for a workload of the user's own, from what its source says; nothing of it is imported or run.

Parameters are the fields of the dataclass ``Settings`` if the module has one, else what the function reads of its
first argument: ``params["epochs"]``, ``params.get("lr", 1e-3)``. Metrics are the names in calls of ``report``. What the
source does not say, ranges above all, is for a person to add.
"""

import ast
import json
from collections.abc import Iterator, Mapping
from typing import Any

from fairlead.errors import BadInput
from fairlead.spec import ExperimentSpec, Manifest, Parameter, from_mapping

SETTINGS = "Settings"
_TYPES = {"int": "int", "float": "float", "bool": "bool", "str": "str"}


def draft_manifest(source: str, spec: ExperimentSpec) -> Manifest:
    """The manifest of ``spec.workload``, whose module has ``source``.

    Defaults that the source does not have come from the spec's parameters. Raises ``BadInput`` for a source without
    the function, for a parameter whose default or type nothing says, and for one of the spec that is never read.
    """
    module, _, name = spec.workload.partition(":")
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise BadInput(f"the source of {module} cannot be read: line {error.lineno}: {error.msg}") from error
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    if name not in functions:
        raise BadInput(f"module {module} has no function {name}, only {', '.join(functions) or 'none'}")
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    settings = classes.get(SETTINGS)
    parameters = _of_settings(settings, spec) if settings else _of_function(functions[name], spec)
    if strangers := [key for key in spec.params if key not in parameters]:
        raise BadInput(
            f"the spec has a parameter {strangers[0]!r}, and {module} reads {', '.join(parameters) or 'none'}"
        )
    title = (ast.get_docstring(tree) or name).splitlines()[0].rstrip(".")
    content = {
        "name": module.rpartition(".")[2].lower(),
        "title": title,
        "data": "table" if spec.data.is_there else "own",
        "metrics": tuple(dict.fromkeys(_metrics(tree))),
        "module": spec.workload,
        "parameters": {key: one.model_dump(exclude_unset=True) for key, one in parameters.items()},
        "steps": "epochs" if "epochs" in parameters else None,
    }
    return from_mapping(Manifest, content)


def as_toml(manifest: Manifest) -> str:
    """As a file that ``own_manifest`` reads back to the same manifest."""
    content = manifest.model_dump(mode="json", exclude_defaults=True)
    parameters = content.pop("parameters", {})
    parts = [_table(content)] + [f"[parameters.{name}]\n{_table(one)}" for name, one in parameters.items()]
    return "\n".join(parts)


def _table(content: Mapping[str, Any]) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in content.items() if value is not None)


# ---- a dataclass of settings ----------------------------------------------------------------------------------------


def _of_settings(settings: ast.ClassDef, spec: ExperimentSpec) -> dict[str, Parameter]:
    found = {}
    for place, node in enumerate(settings.body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
            default = _value(node.value, name) if node.value else _from_spec(name, spec)
            following = settings.body[place + 1] if place + 1 < len(settings.body) else None
            found[name] = _parameter(name, node.annotation, default, _text(following))
    return found


def _parameter(name: str, annotation: ast.expr, default: Any, text: str) -> Parameter:
    choices = _choices(annotation)
    kind = "str" if choices else _kind_of_annotation(annotation)
    if kind is None:
        raise BadInput(
            f"{SETTINGS}.{name} is {ast.unparse(annotation)}: a parameter is an int, a float, a bool, a str, a Literal "
            "of texts, or a list or tuple of ints"
        )
    return _checked(name, {"type": kind, "default": default, "choices": choices, "help": text})


def _kind_of_annotation(annotation: ast.expr) -> str | None:
    if isinstance(annotation, ast.Name):
        return _TYPES.get(annotation.id)
    text = ast.unparse(annotation).replace(" ", "")
    return "ints" if text in ("list[int]", "tuple[int,...]", "Sequence[int]") else None


def _choices(annotation: ast.expr) -> tuple[str, ...] | None:
    if not (isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value).endswith("Literal")):
        return None
    listed = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
    values = [text for one in listed if (text := _constant(one)) is not None]
    return tuple(values) if values and len(values) == len(listed) else None


def _text(node: ast.stmt | None) -> str:
    """The text that stands below a field, on one line."""
    text = _constant(node.value) if isinstance(node, ast.Expr) else None
    return " ".join((text or "").split())


# ---- what a function reads ------------------------------------------------------------------------------------------


def _of_function(function: ast.FunctionDef, spec: ExperimentSpec) -> dict[str, Parameter]:
    if not function.args.args:
        raise BadInput(f"{function.name} takes no arguments; a workload is {function.name}(params, context)")
    found: dict[str, Parameter] = {}
    for name, default in _reads(function, function.args.args[0].arg):
        value = spec.params.get(name) if default is None else _value(default, name)
        value = _from_spec(name, spec) if value is None else value
        found.setdefault(name, _checked(name, {"type": _kind_of_value(name, value), "default": value}))
    return found


def _reads(function: ast.FunctionDef, params: str) -> Iterator[tuple[str, ast.expr | None]]:
    """Names of parameters in the order of the source, each with the default that the source has for it."""
    nodes = (node for node in ast.walk(function) if isinstance(node, ast.Subscript | ast.Call))
    for node in sorted(nodes, key=lambda node: (node.lineno, node.col_offset)):
        if isinstance(node, ast.Subscript) and _is_name(node.value, params) and (name := _constant(node.slice)):
            yield name, None
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "get"
            and _is_name(node.func.value, params)
            and node.args
            and (name := _constant(node.args[0]))
        ):
            yield name, node.args[1] if len(node.args) > 1 else None


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _constant(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _kind_of_value(name: str, value: Any) -> str:
    if isinstance(value, list | tuple) and all(isinstance(one, int) for one in value):
        return "ints"
    kind = _TYPES.get(type(value).__name__)
    if kind is None:
        raise BadInput(f"parameter {name} is {value!r}: it must be a number, a text, true or false, or whole numbers")
    return kind


# ---- both -----------------------------------------------------------------------------------------------------------


def _value(node: ast.expr, name: str) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        message = f"the default of {name} is {ast.unparse(node)}, and only a plain value can stand in a manifest"
        raise BadInput(message) from error


def _from_spec(name: str, spec: ExperimentSpec) -> Any:
    if name not in spec.params:
        raise BadInput(f"nothing says what {name} is by default: give it one in the source, or a value in the spec")
    return spec.params[name]


def _checked(name: str, content: Mapping[str, Any]) -> Parameter:
    parameter = from_mapping(Parameter, {key: value for key, value in content.items() if value not in (None, "")})
    if problem := parameter.problem_with(parameter.default):
        raise BadInput(f"the default of {name} {problem}")
    return parameter


def _metrics(tree: ast.Module) -> Iterator[str]:
    """Names in mappings that are given to ``report``."""
    for node in ast.walk(tree):
        called = node.func if isinstance(node, ast.Call) else None
        name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else None
        if name == "report" and isinstance(node, ast.Call):
            for given in node.args:
                keys = given.keys if isinstance(given, ast.Dict) else []
                yield from (text for key in keys if key is not None and (text := _constant(key)))
