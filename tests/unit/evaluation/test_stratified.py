"""Gaps within strata, against a published table in which the gap over all rows misleads."""

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import StratifiedTable

from fairlead.evaluation import CountState, build_report, report_schema
from fairlead.evaluation.page import render_page
from fairlead.evaluation.stratified import Strata, association_test, conditional_gaps, odds_ratio, risk_difference
from fairlead.spec import EvaluationSpec
from fairlead.testing.evaluation import a_provenance, example_state
from fairlead.workload import Attribute

# Bickel, Hammel and O'Connell 1975, Science 187: admitted and rejected in the six largest departments, Berkeley 1973
BERKELEY = {
    "A": ((512, 313), (89, 19)),
    "B": ((353, 207), (17, 8)),
    "C": ((120, 205), (202, 391)),
    "D": ((138, 279), (131, 244)),
    "E": ((53, 138), (94, 299)),
    "F": ((22, 351), (24, 317)),
}
"""Men, then women."""


def men_against_women(tables: dict[str, tuple[tuple[int, int], tuple[int, int]]] = BERKELEY) -> Strata:
    counts = np.array(list(tables.values()), dtype=np.float64)
    return Strata(
        x=counts[:, 0, 0],
        n=counts[:, 0].sum(axis=1),
        reference_x=counts[:, 1, 0],
        reference_n=counts[:, 1].sum(axis=1),
    )


def admissions() -> CountState:
    """Selected are those admitted; labels alternate, so that both rates exist."""
    attributes = (Attribute(name="sex", levels=("men", "women")), Attribute(name="department", levels=tuple(BERKELEY)))
    state = CountState(attributes=attributes, classes=("rejected", "admitted"))
    for department, table in enumerate(BERKELEY.values()):
        for sex, numbers in enumerate(table):
            for prediction, rows in zip((1, 0), numbers, strict=True):
                codes = np.tile([sex, department], (rows, 1))
                hashes = np.arange(rows) + state.n
                state.update(codes, np.arange(rows) % 2, np.full(rows, prediction), record_hashes=hashes)
    return state


def report_of(state: CountState) -> dict:  # type: ignore[type-arg]
    evaluation = EvaluationSpec(groupings="all", control=("department",))
    return build_report(state, provenance=a_provenance(n_expected=state.n), evaluation=evaluation)


def test_the_common_odds_ratio_of_berkeley_is_the_one_that_r_prints() -> None:
    value, interval = odds_ratio(men_against_women())  # R, mantelhaen.test(UCBAdmissions)
    assert value == pytest.approx(0.9046968, abs=5e-8)
    assert interval == pytest.approx((0.7719074, 1.0603298), abs=5e-8)


def test_the_test_of_berkeley_is_the_one_that_r_prints_without_its_continuity_correction() -> None:
    found = association_test(men_against_women())
    assert found == pytest.approx((1.5246, 0.2169), abs=5e-5)


@given(
    tables=st.lists(st.tuples(*[st.integers(1, 60)] * 4), min_size=1, max_size=8),
)
@settings(max_examples=40, deadline=None)
def test_pooled_values_are_those_of_statsmodels(tables: list[tuple[int, int, int, int]]) -> None:
    strata = men_against_women({str(at): ((a, b), (c, d)) for at, (a, b, c, d) in enumerate(tables)})
    oracle = StratifiedTable([np.array([[a, b], [c, d]]) for a, b, c, d in tables])
    value, interval = odds_ratio(strata)
    assert value == pytest.approx(oracle.oddsratio_pooled, rel=1e-12)
    assert interval == pytest.approx(oracle.oddsratio_pooled_confint(), rel=1e-9)
    found = oracle.test_null_odds(correction=False)
    assert association_test(strata) == pytest.approx((found.statistic, found.pvalue), rel=1e-9, abs=1e-12)


def test_the_pooled_difference_of_one_stratum_is_the_plain_one_with_the_plain_variance() -> None:
    value, interval = risk_difference(men_against_women({"all": ((30, 70), (20, 60))}))
    assert value == pytest.approx(0.3 - 0.25)
    assert interval is not None
    # Sato's variance of one stratum, by hand: (d * (P) + Q) / w**2 with w = 100*80/180
    first = (100 / 180) ** 2 * 20 - (80 / 180) ** 2 * 30 + (100 / 180) * (80 / 180) * (80 - 100) / 2
    second = (30 * 60 + 20 * 70) / 360
    error = np.sqrt(0.05 * first + second) / (8000 / 180)
    assert interval == pytest.approx((0.05 - 1.959964 * error, 0.05 + 1.959964 * error), abs=1e-6)


@given(tables=st.lists(st.tuples(*[st.integers(0, 30)] * 4), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_swapping_the_groups_turns_everything_round(tables: list[tuple[int, int, int, int]]) -> None:
    there = men_against_women({str(at): ((a, b), (c, d)) for at, (a, b, c, d) in enumerate(tables)})
    back = men_against_women({str(at): ((c, d), (a, b)) for at, (a, b, c, d) in enumerate(tables)})
    one, other = risk_difference(there), risk_difference(back)
    assert (one.value is None) == (other.value is None)
    if one.value is not None and other.value is not None:
        assert one.value == pytest.approx(-other.value, abs=1e-12)
    more, less = odds_ratio(there).value, odds_ratio(back).value
    if more and less:
        assert more * less == pytest.approx(1)


def test_strata_with_one_group_only_say_nothing_and_alone_give_no_value() -> None:
    with_empty = men_against_women({**BERKELEY, "G": ((10, 5), (0, 0))})
    assert risk_difference(with_empty) == risk_difference(men_against_women())
    nothing = men_against_women({"G": ((10, 5), (0, 0))})
    assert (risk_difference(nothing), odds_ratio(nothing), association_test(nothing)) == (
        (None, None),
        (None, None),
        None,
    )


def test_the_report_shows_that_the_gap_of_berkeley_turns_round_within_departments() -> None:
    report = report_of(admissions())
    jsonschema.validate(report, report_schema())
    entry = next(one for one in report["conditional"] if one["metric"] == "demographic_parity_difference")
    assert (entry["key"], entry["reference"]) == ({"sex": "women"}, {"sex": "men"})
    assert entry["unconditional"] == pytest.approx(557 / 1835 - 1198 / 2691)
    assert entry["difference"]["value"] > 0
    assert entry["reversed"]
    assert entry["odds_ratio"]["value"] == pytest.approx(1 / 0.9046968, abs=1e-6)
    in_a = next(one for one in entry["strata"] if one["key"] == {"department": "A"})
    assert (in_a["num"], in_a["den"], in_a["reference_num"], in_a["reference_den"]) == (89, 108, 512, 825)
    assert {one["name"]: one["role"] for one in report["attributes"]} == {"sex": "sensitive", "department": "control"}
    assert {tuple(one["by"]) for one in report["disparities"]} == {("sex",)}


def test_the_page_says_that_the_sign_changes() -> None:
    page = render_page(report_of(admissions()))
    assert "Within strata of department" in page
    assert "women less men: \u22120.142 over all rows" in page
    assert "The sign changes: by department the groups are spread differently." in page


def test_rows_of_unknown_groups_and_strata_take_no_part() -> None:
    state = example_state(rows=4000)
    groups, found = conditional_gaps(state, ("sex",), ("age_band",))
    assert len(found) == 2
    assert all(set(one.keys[0]) == {"age_band"} and len(one.keys) == 3 for one in found)
    unknown_sex_or_age = state.n - int(found[0].strata.n.sum() + found[0].strata.reference_n.sum())
    assert unknown_sex_or_age == state.n_unknown
    assert groups.by == ("sex",)


def test_what_is_compared_cannot_be_controlled_for() -> None:
    with pytest.raises(ValueError, match="other attributes"):
        conditional_gaps(example_state(), ("sex",), ("sex",))
