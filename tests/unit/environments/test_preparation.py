"""What a runner makes of ranks that build: who begins again when, and what is told how often."""

from typing import Any

import pytest

from fairlead.lifecycle import Outcome
from fairlead.run.messages import Preparing
from fairlead.run.preparation import Preparation, refusal
from fairlead.run.virtual import Ready, Refused

BUILT, FOUND = Ready(is_new=True, seconds=1.25, size=2_000_000), Ready(is_new=False)


def word(rank: int, answer: Ready | Refused | None = None, **changes: Any) -> Preparing:
    return Preparing(**{"rank": rank, "world_size": 3, "group_id": "g", "node_id": "n", "answer": answer, **changes})


def test_a_group_begins_again_when_every_rank_is_ready_or_in_its_environment() -> None:
    preparation = Preparation("key")
    seen = []
    for rank, answer in [(0, None), (0, BUILT), (1, None), (1, FOUND)]:
        preparation.hear(word(rank, answer))
        seen.append(preparation.is_everyone_ready(word(rank), entered=(2,)))
    assert seen == [False, False, False, True]
    assert not preparation.is_everyone_ready(word(0), entered=())
    assert not preparation.is_everyone_ready(word(0, group_id="another"), entered=(2,))


def test_a_node_is_told_of_once_however_many_ranks_it_has() -> None:
    preparation = Preparation("key")
    words = [word(0), word(1), word(0), word(0, BUILT), word(0, BUILT), word(1, FOUND), word(2, node_id="m")]
    told = [news and (news.kind, news.payload["node"]) for news in map(preparation.hear, words)]
    begun, ended = ("environment_building", "n"), ("environment_built", "n")
    assert told == [begun, None, None, ended, None, None, ("environment_building", "m")]


@pytest.mark.parametrize(
    ("nodes", "told"),
    [({"n"}, None), ({"n", "m"}, "1 node had it already"), ({"k", "m"}, "2 nodes had it already")],
)
def test_nodes_that_had_it_are_those_that_did_not_build(nodes: set[str], told: str | None) -> None:
    preparation = Preparation("key")
    preparation.hear(word(0, BUILT))
    news = preparation.found_on(nodes)
    assert (news and news.detail) == told
    assert preparation.found_on(nodes) is None


@pytest.mark.parametrize(("is_of_node", "outcome"), [(False, Outcome.USER_ERROR), (True, Outcome.INFRA_ERROR)])
def test_who_is_to_blame_decides_the_outcome(is_of_node: bool, outcome: Outcome) -> None:
    refused = Refused(reason="bad_environment: x", detail="last\nlines", is_of_node=is_of_node)
    verdict = refusal(refused, node_id="0123456789abcdef")
    assert (verdict.outcome, verdict.detail) == (outcome, "node 0123456789ab: last\nlines")
