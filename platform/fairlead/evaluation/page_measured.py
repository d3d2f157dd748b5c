"""What the page says of numbers that no count holds, in sentences: energy and privacy. It rounds and words."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp
from typing import Any

Section = Mapping[str, Any]
_PARTS = {"cpu": "processors", "gpu": "GPUs", "ram": "memory"}
_KETTLE_KWH = 0.1
"""A litre of water from 15 to 100 °C: 4186 J/kg K times 85 K is 0.099 kWh."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredPart:
    """One section: what is large, what it means, what to know of it, and a table of details."""

    title: str
    why_not: str
    tiles: tuple[tuple[str, str, str], ...] = ()
    """Name, value, meaning."""
    texts: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    shows_groups: bool = False
    """Whether accuracy by group stands beside it."""


def energy_part(section: Section) -> MeasuredPart:
    """What the training used."""
    title = "What the training used"
    if "nodes" not in section:
        return MeasuredPart(title=title, why_not=section["why_not_measured"] or "")
    kwh, co2e = (section["metrics"][name] for name in ("energy_kwh", "co2e_kg"))
    intensity = section["intensity"]
    meaning = f"about {_roughly(section['kwh_seen'] / _KETTLE_KWH)} times the electricity that boils a litre of water"
    tiles = [("Electricity", _amount(kwh["value"], "kWh", "Wh"), meaning)]
    if intensity is not None:
        source = f"{intensity['g_per_kwh']:g} g a kWh, by {intensity['source']}"
        tiles.append(("Emissions (CO2e)", _amount(co2e["value"], "kg", "g"), source))
    rows = tuple(
        (
            node["node"],
            f"{node['ranks']}",
            _duration(node["duration_s"]),
            node["why_not_measured"] or _amount(node["kwh"], "kWh", "Wh"),
            "yes" if node["shared"] else "no",
        )
        for node in section["nodes"][:50]
    )
    return MeasuredPart(
        title=title,
        why_not=section["why_not_measured"] or "",
        tiles=tuple(tiles),
        texts=tuple(_of_energy(section)),
        columns=("Node", "Workers", "Time", "Electricity", "Others may use it too"),
        rows=rows,
    )


def _of_energy(section: Section) -> list[str]:
    texts = []
    attempts = section["attempts"]
    if len(attempts) > 1:
        texts.append(f"{len(attempts)} attempts are added up, those that came to nothing included.")
    if section["scope"] == "machine":
        text = "Whole machines were measured: whatever else ran on them meanwhile is in it."
        texts.append(f"{text} Some are shared with others." if section["shared"] else text)
    modelled = [_PARTS[part["part"]] for part in section["parts"] if not part["measured"]]
    if modelled:
        how = "; ".join(f"{_PARTS[p['part']]}: {', '.join(p['how'])}" for p in section["parts"] if not p["measured"])
        texts.append(f"The share of {' and '.join(modelled)} is an estimate and was not metered ({how}).")
    if section["unfinished"]:
        texts.append("Some meters were cut off: up to ten seconds before their end may be missing.")
    reason = section["metrics"]["co2e_kg"]["reason"]
    if reason and section["intensity"] is None and not section["why_not_measured"]:
        texts.append(f"No emissions are given: {reason}.")
    if section["intensity"] is not None and section["intensity"]["country"]:
        texts.append("The intensity is a yearly mean of the country; that of the hour and the place may differ much.")
    texts.append("What making the machines cost, cooling, network and storage are not in it.")
    return texts


def privacy_part(section: Section) -> MeasuredPart:
    """How much the model can tell of one record."""
    title = "How much the model can tell of one record"
    if "delta" not in section:
        return MeasuredPart(title=title, why_not=section["why_not_measured"] or "")
    epsilon = section["metrics"]["epsilon"]["value"]
    factor = exp(min(epsilon, 700))
    times = f"{factor:.2g} times" if factor < 1000 else "over a thousand times"
    share = section["sample_rate"]
    return MeasuredPart(
        title=title,
        why_not="",
        tiles=(
            ("Privacy loss ε", f"{epsilon:.3g}", "0: the model would be the same without the record; small is private"),
            ("δ", f"{section['delta']:g}", "probability with which the bound may not hold"),
            (
                "Noise",
                f"{section['noise_multiplier']:.3g}",
                f"times {section['max_grad_norm']:g}, the most a record adds",
            ),
        ),
        texts=(
            f"Training was differentially private: with or without any one of the {section['records']:,} rows of the "
            f"train split, any outcome of the training is at most {times} as likely, but for the probability δ. Below "
            "1, ε is strong protection; above about 10 the guarantee says little.",
            f"In each of {section['steps']:,} steps a record took part with probability {share:.3g}, drawn on its own "
            "(Poisson sampling); its gradient was clipped, and noise was added to the sum. The accountant is Rényi "
            "differential privacy, for one record added or removed. Who has several records is protected less.",
            "Protected are rows of the train split. Rows of the validation split, by which inputs may be scaled and "
            "the epoch chosen, and of the test split are not, nor is what was shown of the train split in training.",
            "Noise hides small groups first: look at how accurate the model is for each of them.",
        ),
        shows_groups=True,
    )


def _amount(value: float | None, unit: str, small: str) -> str:
    if value is None:
        return "not known"
    return f"{value:.3g} {unit}" if value >= 0.1 else f"{1000 * value:.3g} {small}"


def _roughly(number: float) -> str:
    return f"{number:.1g}" if number < 10 else f"{round(number, 1 - len(str(int(number)))):,.0f}"


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if hours < 2 else f"{hours:.1f} h"
