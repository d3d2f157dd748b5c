"""Scrape configuration, alert rules and dashboard use only what a server really shows; the docs explain all of it."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose
from prometheus_client.parser import text_string_to_metric_families

from fairlead.control.meters import LOOPS
from fairlead.flags import FlagCode
from fairlead.lifecycle import State
from fairlead.testing.stored import a_node

ROOT = Path(__file__).parents[3]
PROMETHEUS, GRAFANA = ROOT / "infra" / "prometheus", ROOT / "infra" / "grafana"
DOCS = (ROOT / "docs" / "operations.md").read_text()
OF_PROMETHEUS = {"up": {"job", "instance"}, "ALERTS": {"alertname", "alertstate"}}
SCRAPED = {"job", "instance"}
FUNCTIONS = {"sum", "min", "max", "count", "rate", "increase", "histogram_quantile", "vector"}
WORDS = {"by", "without", "and", "or", "unless"}
LOOP_NAMES = {"dispatch", "settle", "evaluate", "record", "verify", "deliver", "reap"}
VALUES = {
    "state": set(State),
    "loop": LOOP_NAMES,
    "code": set(FlagCode),
    "cause": {"stale", "unavailable", "crashed"},
    "kind": {"user", "agent", "stream", "other"},
    "status": {"1xx", "2xx", "3xx", "4xx", "5xx"},
    "job": {"fairlead-api", "fairlead-control"},
}


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((GRAFANA / "fairlead.json").read_text())["panels"]
    return found


EXPRESSIONS = [rule["expr"] for rule in rules()]
EXPRESSIONS += [target["expr"] for panel in panels() for target in panel.get("targets", [])]


@pytest.fixture
def live(small_bench: Any, spec: dict[str, Any]) -> dict[str, set[str]]:
    """Every name that a running server shows, with its labels."""
    nodes = [a_node(cpus=4).model_dump(mode="json")]
    small_bench.sync(small_bench.attach(), nodes=nodes)
    small_bench.submit(spec)
    with pytest.raises(ZeroDivisionError), LOOPS.round("dispatch"):
        raise ZeroDivisionError
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(small_bench.user.get("/metrics").text):
        for one in family.samples:
            found.setdefault(one.name, set()).update(one.labels)
    return found


# ---- PromQL, as far as we write it ----------------------------------------------------------------------------------


def names_in(expression: str) -> set[str]:
    """Names of metrics: words that are neither functions nor operators nor within braces, brackets or ``by (...)``."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", bare)
    bare = re.sub(r"\b(by|without)\s*\([^)]*\)", " ", bare)
    words = re.findall(r"(?<![\w.])([a-zA-Z_:][\w:]*)\b(?!\s*\()", bare)
    return set(words) - WORDS


def selectors_in(expression: str) -> Iterator[tuple[str, str, str, str]]:
    """(metric, label, operator, value) of every matcher."""
    for name, inside in re.findall(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}", expression):
        for label, operator, value in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', inside):
            yield name, label, operator, value


def groups_in(expression: str) -> set[str]:
    found = re.findall(r"\bby\s*\(([^)]*)\)", expression)
    return {label.strip() for inside in found for label in inside.split(",")}


def faults(expression: str, live: Mapping[str, set[str]]) -> list[str]:
    known = {**live, **OF_PROMETHEUS}
    names = names_in(expression)
    found = [f"nobody shows {name}" for name in sorted(names - set(known))]
    for name, label, operator, value in selectors_in(expression):
        if label not in known.get(name, set()) | SCRAPED:
            found.append(f"{name} has no label {label}")
        values = value.split("|") if operator in ("=~", "!~") else [value]
        plain = {one for one in values if re.fullmatch(r"[\w-]+", one)}
        found += [f"{label} is never {one}" for one in sorted(plain - VALUES.get(label, plain))]
    labels = set().union(*(known.get(name, set()) for name in names)) | SCRAPED
    found += [f"nothing has a label {label} to group by" for label in sorted(groups_in(expression) - labels)]
    bare = re.sub(r"\b(by|without)\b", "", re.sub(r'"[^"]*"', "", expression))
    called = set(re.findall(r"\b([a-z_]+)\s*\(", bare)) - WORDS
    found += [f"{name} is no function that we know" for name in sorted(called - FUNCTIONS)]
    found += [
        f"{opening} without {closing}"
        for opening, closing in ("()", "[]", "{}")
        if bare.count(opening) != bare.count(closing)
    ]
    return found


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("max(fairlead_experiment)", "nobody shows fairlead_experiment"),
        ('fairlead_experiments{status="held"}', "fairlead_experiments has no label status"),
        ('fairlead_experiments{state="stuck"}', "state is never stuck"),
        ("sum by (project) (fairlead_streams)", "nothing has a label project to group by"),
        ("maximum(fairlead_streams)", "maximum is no function that we know"),
        ("max(fairlead_streams", "( without )"),
    ],
)
def test_the_check_itself_sees_faults(live: dict[str, set[str]], wrong: str, said: str) -> None:
    assert said in faults(wrong, live)


def test_rules_and_panels_use_only_what_a_server_shows(live: dict[str, set[str]]) -> None:
    assert len(EXPRESSIONS) > 40
    found = {expression: told for expression in EXPRESSIONS if (told := faults(expression, live))}
    assert not found


def test_every_number_is_explained_and_none_that_is_not_there(live: dict[str, set[str]]) -> None:
    ours = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in live if name.startswith("fairlead_")}
    explained = set(re.findall(r"`(fairlead_[a-z_]+)(?:\{[^}]*\})?`", DOCS))
    assert explained == ours


def test_labels_are_explained_as_they_are(live: dict[str, set[str]]) -> None:
    for name, labels in re.findall(r"`(fairlead_[a-z_]+)\{([^}]*)\}`", DOCS):
        shown = live.get(name) or live[f"{name}_count"]
        assert shown == set(labels.split(",")), name


# ---- the files around them ------------------------------------------------------------------------------------------


def test_a_rule_says_how_bad_it_is_and_what_to_do() -> None:
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "action"}, rule["alert"]
        assert "for" in rule or "increase(" in rule["expr"], f"{rule['alert']} fires at a single look"


def test_the_dashboard_can_be_imported() -> None:
    document = json.loads((GRAFANA / "fairlead.json").read_text())
    assert [one["type"] for one in document["templating"]["list"]] == ["datasource"]
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    places = {(x, y) for panel in panels() for x, y in _squares(panel["gridPos"])}
    assert len(places) == sum(panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in panels()), "panels overlap"
    assert max(x for x, _ in places) < 24


def _squares(place: Mapping[str, int]) -> Iterator[tuple[int, int]]:
    for x in range(place["x"], place["x"] + place["w"]):
        yield from ((x, y) for y in range(place["y"], place["y"] + place["h"]))


def test_who_is_scraped_is_who_compose_starts() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert [path for path in config["rule_files"] if not (PROMETHEUS / path).exists()] == []
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    assert targets == {"fairlead-api": ["api:8170"], "fairlead-control": ["control:9464"]}
    beside = yaml.safe_load((PROMETHEUS / "compose.yml").read_text())
    assert beside["services"]["control"]["environment"]["FAIRLEAD_METRICS_PORT"] == "9464"
    (api,) = [job for job in config["scrape_configs"] if job["job_name"] == "fairlead-api"]
    assert Path(api["authorization"]["credentials_file"]).name in beside["services"]["prometheus"]["secrets"]


def test_prometheus_and_grafana_join_the_other_services_on_loopback_alone() -> None:
    main = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    beside = yaml.safe_load((PROMETHEUS / "compose.yml").read_text())
    added = {name: one for name, one in beside["services"].items() if name not in main["services"]}
    PyCompose.from_yaml(yaml.safe_dump({**beside, "services": added}))
    for one in added.values():
        assert all(port.startswith("127.0.0.1:") for port in one["ports"])
        assert set(one["networks"]) <= set(main["networks"])
        assert "cluster" not in one["networks"], "workloads must not reach it"
        sources = [volume.split(":")[0] for volume in one["volumes"]]
        assert all((ROOT / source).exists() if source[0] == "." else source in beside["volumes"] for source in sources)
        assert re.search(r":v?\d+\.\d+\.\d+$", one["image"]), "an image is pinned"
