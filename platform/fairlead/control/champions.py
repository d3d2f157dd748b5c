"""Whom a model's gates mean by the champion, and what both answered to the same rows.

Read from our own books and from files that workers left. MLflow, where people may move aliases, is asked nothing.
"""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from fairlead.control.results import EvaluationBroken, opened
from fairlead.evaluation import AnyState, CountState
from fairlead.evaluation.answers import MAX_ANSWERS, AnswerFile, Pairing, StrangeAnswers, TooManyPairs, pair
from fairlead.evaluation.champion import UNNAMED, Champion
from fairlead.protocol import ResultDocument
from fairlead.registry import Incumbent, champion_of
from fairlead.spec import ExperimentSpec
from fairlead.store import Store, attempts, experiments
from fairlead.store.tables import AttemptRow

NO_CHAMPION = "no_champion"


@dataclass(frozen=True, kw_only=True, slots=True)
class Champions:
    """Finds the champion of an experiment that is being evaluated."""

    store: Store
    storage: Path

    def of(self, spec: ExperimentSpec, attempt: AttemptRow, result: ResultDocument, state: AnyState) -> Champion:
        """Whom the gates of ``spec`` mean; ``state``: what ``attempt`` has counted, with ``result``.

        Raises ``EvaluationBroken`` where the answers of ``attempt`` itself are not what was counted, and ``OSError``.
        """
        is_asked = any(gate.requirement.is_relative for gate in spec.gates)
        if not is_asked or not isinstance(state, CountState):
            return UNNAMED
        if spec.predictions is not None:
            return Champion(column=spec.predictions.champion, state=state)
        if spec.register_as is None:
            return UNNAMED
        found = self._incumbent(spec, attempt.experiment_id)
        if found is None:
            name, alias = spec.register_as.name, spec.register_as.alias
            why = f"no model {name} is registered as @{alias} yet, so there is none to be held against ({NO_CHAMPION})"
            return Champion(name=name, alias=alias, is_absent=True, why_not=why)
        champion = Champion(experiment=found.experiment, name=found.name, version=found.version, alias=found.alias)
        return self._compared(champion, attempt, result, state)

    def _incumbent(self, spec: ExperimentSpec, own: str) -> Incumbent | None:
        assert spec.register_as is not None, "asked by the caller"
        with self.store.read() as session:
            known = experiments.promotions(session, spec.project, spec.register_as.name)
        known.sort(key=lambda one: one.updated_at)
        return champion_of({one.experiment: one.decided for one in known if one.experiment != own}, spec.register_as)

    def _compared(self, champion: Champion, attempt: AttemptRow, result: ResultDocument, state: CountState) -> Champion:
        """``champion`` with what both answered, or with the reason why that is not known."""
        assert champion.experiment is not None, "it was found"
        with self.store.read() as session:
            row = experiments.get(session, champion.experiment)
            other = attempts.get(session, attempts.attempt_id(row.id, row.current_attempt_no))
        theirs = ResultDocument.model_validate(other.result)
        why_not = _why_no_answers(result, "this experiment") or _why_no_answers(theirs, "the champion")
        if why_not is None and _classes(result) != _classes(theirs):
            why_not = "the champion knows other classes"
        if why_not is not None:
            return replace(champion, why_not=why_not)
        with ExitStack() as stack:
            ours = self._answers(stack, attempt, result)
            try:
                found = pair(state, ours, self._answers(stack, other, theirs))
            except FileNotFoundError:
                return replace(champion, why_not="the champion's answers to single rows have been deleted")
            except TooManyPairs as error:
                return replace(champion, why_not=f"pairs of answers cannot be counted: {error}")
            except (EvaluationBroken, StrangeAnswers) as error:
                return replace(champion, why_not=f"the champion's answers cannot be used: {error}")
            except ValueError as error:
                raise EvaluationBroken(str(error)) from error
        if found.state is None:
            return replace(champion, why_not=_other_rows(found))
        return replace(champion, state=found.state)

    def _answers(self, stack: ExitStack, attempt: AttemptRow, result: ResultDocument) -> list[AnswerFile]:
        """The open files. Raises ``EvaluationBroken`` for what is no such file, and ``OSError``."""
        assert result.evaluation is not None, "asked by the caller"
        found = []
        for file in result.evaluation.answers:
            stream = stack.enter_context(opened(self.storage, attempt, file))
            try:
                found.append(AnswerFile(stream))
            except ValueError as error:
                raise EvaluationBroken(f"{file.path}: {error}") from error
        return found


def _classes(result: ResultDocument) -> list[str]:
    return list((result.dataset or {}).get("classes", ()))


def _why_no_answers(result: ResultDocument, whose: str) -> str | None:
    if result.evaluation is None:
        return f"{whose} was not evaluated"
    if result.evaluation.answers:
        return None
    rows = result.evaluation.expected_rows
    if rows > MAX_ANSWERS:
        return f"{whose} was evaluated on {rows:,} rows, and answers to single rows are kept of at most {MAX_ANSWERS:,}"
    return f"of {whose} no answers to single rows were kept: its cluster's agent is of a release that keeps none"


def _other_rows(found: Pairing) -> str:
    told = f"the champion was evaluated on other rows: {found.num_same:,} of {found.num_ours:,} are the same"
    return told if found.num_theirs == found.num_ours else f"{told}, and it had {found.num_theirs:,}"
