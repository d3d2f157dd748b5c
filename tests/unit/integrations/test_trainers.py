"""Scripts of the page for other libraries' trainers: stopped and resumed they end where an uninterrupted one ends."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fairlead.data.context import KeepingOutlet
from fairlead.data.torch import joined_ranks, seed_all
from fairlead.errors import BadInput
from fairlead.spec import ExperimentSpec, from_mapping
from fairlead.testing.context import a_context
from fairlead.testing.pages import Page

pytestmark = pytest.mark.filterwarnings("ignore")  # both libraries warn of much, and each release of other things
SPEC = from_mapping(ExperimentSpec, {"name": "a", "workload": "mine:train"})
Train = Callable[..., None]


@pytest.fixture
def workload(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Train]:
    """``train`` of a script of the page, run where it may leave files."""
    (tmp_path / "code").mkdir()
    page.write("own", tmp_path / "code")
    monkeypatch.chdir(tmp_path)
    for variable in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):  # Lightning's seed_everything leaves them behind
        monkeypatch.setenv(variable, "0")
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # importing Lightning sets it

    def load(name: str) -> Train:
        found = importlib.util.spec_from_file_location(name, tmp_path / "code" / f"{name}.py")
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        train: Train = module.train
        return train

    return load


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ran(train: Train, outlet: KeepingOutlet, *, resume_from: Path | None = None) -> dict[str, float]:
    """The last value of each metric."""
    seed_all(0)
    train({"epochs": 3}, a_context(SPEC, outlet=outlet, resume_from=resume_from))
    return {name: value for _, metrics in outlet.reports for name, value in metrics.items()}


@pytest.mark.parametrize(
    ("name", "metrics", "steps", "stopped"),
    [
        ("pictures", ("train/loss", "eval/loss", "eval/accuracy"), [44, 88, 132], {44, 50}),  # looks every ten steps
        ("strokes", ("train/loss", "validation/accuracy"), [1, 2, 3], {1}),
    ],
)
def test_a_trainer_reports_stops_and_goes_on_as_if_it_had_not(
    workload: Callable[[str], Train],
    tmp_path: Path,
    name: str,
    metrics: tuple[str, ...],
    steps: list[int],
    stopped: set[int],
) -> None:
    train = workload(name)
    whole = KeepingOutlet()
    expected = ran(train, whole)
    assert sorted({step for step, _ in whole.reports}) == steps
    first = KeepingOutlet(directory=tmp_path / "kept", stop_after=1)
    ran(train, first)
    assert {step for step, _ in first.reports} == stopped, "asked to stop it trains no further"
    second = KeepingOutlet(directory=tmp_path / "kept")
    found = ran(train, second, resume_from=tmp_path / "kept")
    assert sorted({step for step, _ in second.reports}) == steps[1:]
    assert {key: found[key] for key in metrics} == {key: expected[key] for key in metrics}


def a_trainer(directory: Path, **changes: Any) -> Any:
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

    small = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=8)
    return Trainer(BertForSequenceClassification(small), TrainingArguments(str(directory), **changes))


def test_a_trainer_that_would_train_each_rank_for_itself_is_refused(tmp_path: Path) -> None:
    from fairlead.integrations.huggingface import prepare

    with pytest.raises(BadInput, match="each would train for itself"):
        prepare(a_trainer(tmp_path), a_context(SPEC, world_size=2))


def test_a_trainer_that_saves_nothing_is_refused(tmp_path: Path) -> None:
    from fairlead.integrations.huggingface import prepare

    with pytest.raises(BadInput, match="save_strategy is 'no'"):
        prepare(a_trainer(tmp_path, save_strategy="no"), a_context(SPEC))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("loss", "train/loss"), ("eval_loss", "eval/loss"), ("test_f1", "test/f1"), ("train_loss", "train/train_loss")],
)
def test_metrics_have_the_names_that_the_trainers_own_trackers_give_them(name: str, expected: str) -> None:
    from transformers.integrations.integration_utils import rewrite_logs

    from fairlead.integrations.huggingface import renamed

    assert {renamed(name): 1.0} == rewrite_logs({name: 1.0}) == {expected: 1.0}


def test_lightning_is_told_the_ranks_that_there_are(tmp_path: Path) -> None:
    from lightning.pytorch import Trainer
    from lightning.pytorch.strategies import SingleDeviceStrategy

    from fairlead.integrations.lightning import ContextStrategy, strategy

    with joined_ranks(tmp_path / "meeting", rank=0, world_size=1):
        two = strategy(a_context(SPEC, rank=1, world_size=2))
        trainer = Trainer(strategy=two, logger=False, enable_checkpointing=False)
    assert isinstance(two, ContextStrategy)
    assert (trainer.world_size, trainer.global_rank) == (2, 1)
    assert two.distributed_sampler_kwargs == {"num_replicas": 2, "rank": 1}
    assert isinstance(strategy(a_context(SPEC)), SingleDeviceStrategy)
