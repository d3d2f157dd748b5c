"""What all pages share: how their templates are read, and how they look."""

from importlib import resources

from jinja2 import Environment, StrictUndefined, Template


def template(name: str) -> Template:
    """A template of this package; whatever is put into it is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(read(name))


def style(*names: str) -> str:
    """Style sheets of this package, one after the other."""
    return "".join(map(read, names))


def read(name: str) -> str:
    """A file of this package."""
    return resources.files("fairlead.evaluation").joinpath(name).read_text(encoding="utf-8")
