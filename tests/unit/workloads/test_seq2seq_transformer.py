"""What is special of rewriting: the search for answers, what the decoder may see, and pairs it cannot learn."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from fairlead.checking import ready_spec
from fairlead.errors import BadData, BadInput
from fairlead.testing.context import train_here
from fairlead_workloads import seq2seq_transformer as page


def a_model(*, symbols: int = 7) -> page.Rewriter:
    torch.manual_seed(1)
    model = page.Rewriter(symbols=symbols, width=8, heads=2, layers=1).eval()
    torch.nn.init.normal_(model.table.weight, std=1.0)
    return model


def likelihood(model: page.Rewriter, source: torch.Tensor, answer: tuple[int, ...]) -> float:
    told = torch.tensor([[page.BEGIN, *answer]])
    logits = model(source, told)[0, :-1]
    logits[:, [page.PAD, page.BEGIN, page.UNKNOWN]] = -torch.inf
    return float(torch.log_softmax(logits, dim=1)[range(len(answer)), list(answer)].sum())


def test_a_search_that_keeps_all_finds_the_likeliest_answer_of_all() -> None:
    model, source = a_model(), torch.tensor([[4, 5, 6]])
    letters = (4, 5, 6)
    ended = [(*begun, page.END) for length in range(3) for begun in itertools.product(letters, repeat=length)]
    every = [*ended, *itertools.product(letters, repeat=3)]
    with torch.no_grad():
        best = max(every, key=lambda answer: likelihood(model, source, answer))
        found = page.beam_search(model, source, beams=100, longest=3)[0].tolist()
    assert tuple(symbol for symbol in found if symbol != page.PAD) == best


def test_one_beam_takes_the_likeliest_next_character_and_rows_do_not_mind_each_other() -> None:
    model = a_model()
    sources = torch.tensor([[4, 5, 6, 4], [6, 5, page.PAD, page.PAD]])
    together = page.beam_search(model, sources, beams=1, longest=6)
    for row, source in enumerate((sources[:1], sources[1:, :2])):
        begun = [page.BEGIN]
        while len(begun) <= 6 and begun[-1] != page.END:
            logits = model(source, torch.tensor([begun]))[0, -1]
            logits[[page.PAD, page.BEGIN, page.UNKNOWN]] = -torch.inf
            begun.append(int(logits.argmax()))
        assert [symbol for symbol in together[row].tolist() if symbol != page.PAD] == begun[1:]


def test_the_decoder_sees_nothing_of_what_comes_later() -> None:
    model, source = a_model(), torch.tensor([[4, 5]])
    first, second = torch.tensor([[page.BEGIN, 4, 5]]), torch.tensor([[page.BEGIN, 4, 6]])
    assert torch.allclose(model(source, first)[:, :2], model(source, second)[:, :2])


def test_a_model_answers_from_its_directory(tmp_path: Path) -> None:
    params = {"epochs": 1, "width": 16, "heads": 2, "layers": 1, "batch_size": 64}
    spec = ready_spec("rewriting", params=params, data={"uri": "builtin://rewriting?rows=200"})
    train_here(page.train, spec, export_to=tmp_path / "model", samples_to=tmp_path / "samples")
    answers = page.load(tmp_path / "model")(np.array(["7 March 1984", "unknown → sign"], dtype=object))
    assert answers.shape == (2,)
    assert all(isinstance(answer, str) for answer in answers)
    assert (tmp_path / "samples" / "answers.txt").read_text().startswith("source")


@pytest.mark.parametrize(
    ("params", "lines", "error", "words"),
    [
        ({"width": 20, "heads": 4}, 50, BadInput, "width 20 must be a multiple of twice the heads, 4"),
        ({"batch_size": 64}, 20, BadData, "16 train pairs are fewer than one batch of 64 for 1 rank"),
        ({}, 0, BadData, "record 0: the source has 1001 characters, more than 1000"),
    ],
)
def test_what_cannot_be_learnt_is_refused_before_training(
    tmp_path: Path, params: dict[str, int], lines: int, error: type[Exception], words: str
) -> None:
    body = [f"number {line}\t{line}" for line in range(lines)] or ["x" * 1001 + "\tx"] * 99
    (tmp_path / "pairs.tsv").write_text("\n".join(["source\tanswer", *body]))
    spec = ready_spec("rewriting", params=params)
    data = {**spec.data.model_dump(), "uri": str(tmp_path / "pairs.tsv"), "sensitive": ()}
    with pytest.raises(error, match=words):
        train_here(page.train, spec.amended(data=data, evaluation={}, gates=()))
