"""What sweeps are measured on: published test functions, and tables that were made by really training on small data."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

EPOCHS = 27
Costs = tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A space, and what a point of it costs. ``least``: the smallest cost there is."""

    name: str
    space: Mapping[str, Any]
    cost: Callable[[Mapping[str, Any]], Costs]
    least: float = 0.0
    resolution: float = 1e-12
    """Differences below this one are none: of an error rate a single row's."""


def _numbers(count: int, low: float, high: float) -> dict[str, Any]:
    return {f"x{number}": {"uniform": [low, high]} for number in range(count)}


def _vector(point: Mapping[str, Any]) -> NDArray[np.float64]:
    return np.array([point[f"x{number}"] for number in range(len(point))])


def branin(point: Mapping[str, Any]) -> Costs:
    """Branin and Hoo (1972)."""
    x, y = point["x"], point["y"]
    bend = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return (bend**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10,)


_SHARP = np.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)
_AT = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


def hartmann(point: Mapping[str, Any]) -> Costs:
    """Hartmann's of six variables."""
    away = (_SHARP * (_vector(point) - _AT) ** 2).sum(axis=1)
    return (-float(np.array([1.0, 1.2, 3.0, 3.2]) @ np.exp(-away)),)


def ackley(point: Mapping[str, Any]) -> Costs:
    """Ackley (1987)."""
    x = _vector(point)
    near, waves = math.sqrt(float(np.mean(x**2))), float(np.mean(np.cos(2 * math.pi * x)))
    return (-20 * math.exp(-0.2 * near) - math.exp(waves) + 20 + math.e,)


def rosenbrock(point: Mapping[str, Any]) -> Costs:
    """Rosenbrock (1960)."""
    x = _vector(point)
    return (float(np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)),)


def conditional(point: Mapping[str, Any]) -> Costs:
    """Two kinds of models with parameters of their own, of which one can be better."""
    rate = math.log10(point["rate"])
    if point["kind"] == "shallow":
        return (0.2 + (rate + 3) ** 2 / 10 + abs(point["width"] - 16) / 100,)
    return ((rate + 2) ** 2 / 10 + abs(point["depth"] - 5) / 20 + (point["drop"] - 0.3) ** 2,)


def zdt1(point: Mapping[str, Any]) -> Costs:
    """Zitzler, Deb and Thiele (2000): two objectives."""
    x = _vector(point)
    far = 1 + 9 * float(np.mean(x[1:]))
    return float(x[0]), far * (1 - math.sqrt(float(x[0]) / far))


CONDITIONAL = {
    "rate": {"log_uniform": [1e-6, 1]},
    "kind": {"choice": ["shallow", "deep"]},
    "width": {"log_int": [1, 256], "when": {"kind": ["shallow"]}},
    "depth": {"int": [1, 12], "when": {"kind": ["deep"]}},
    "drop": {"uniform": [0, 0.9], "when": {"kind": ["deep"]}},
}
FUNCTIONS = (
    Task(
        name="Branin",
        space={"x": {"uniform": [-5, 10]}, "y": {"uniform": [0, 15]}},
        cost=branin,
        least=0.39788735772973816,
    ),
    Task(name="Hartmann-6", space=_numbers(6, 0, 1), cost=hartmann, least=-3.322368011391339),
    Task(name="Ackley-5", space=_numbers(5, -32.768, 32.768), cost=ackley),
    Task(name="Rosenbrock-4", space=_numbers(4, -5, 10), cost=rosenbrock),
    Task(name="conditional", space=CONDITIONAL, cost=conditional),
)
ZDT1 = Task(name="ZDT1", space=_numbers(8, 0, 1), cost=zdt1)


# ---- tables ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Error rates on a validation split, by the place of each parameter's value in its list."""

    name: str
    rows: int
    """Of the validation split."""
    errors: NDArray[np.float64]

    @property
    def task(self) -> Task:
        """To find the least error, every parameter a whole number."""
        space = {f"x{axis}": {"int": [0, count - 1]} for axis, count in enumerate(self.errors.shape)}
        return Task(
            name=self.name,
            space=space,
            cost=self._cost,
            least=float(self.errors.min()),
            resolution=1 / self.rows,
        )

    def _cost(self, point: Mapping[str, Any]) -> Costs:
        return (float(self.errors[tuple(point[f"x{axis}"] for axis in range(self.errors.ndim))]),)


def support_vectors(pool: Executor, data: str, *, side: int) -> Table:
    """An SVM's C and gamma, ``side`` values each, on scikit-learn's breast cancer or digits."""
    asked = [(data, c, gamma) for c in np.logspace(-3, 3, side) for gamma in np.logspace(-5, 1, side)]
    errors = np.array(list(pool.map(_support_vector_error, asked, chunksize=side))).reshape(side, side)
    return Table(name=f"SVM, {data}", rows=len(split(data)[3]), errors=errors)


def _support_vector_error(asked: tuple[str, float, float]) -> float:
    from sklearn.svm import SVC

    data, c, gamma = asked
    x, y, x_validation, y_validation = split(data)
    return 1 - float(SVC(C=c, gamma=gamma).fit(x, y).score(x_validation, y_validation))


def split(data: str) -> tuple[Any, Any, Any, Any]:
    """Train and validation rows: features, labels, features, labels. At most 600 rows to train on."""
    from sklearn.datasets import load_breast_cancer, load_digits
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    x, y = (load_digits if data == "digits" else load_breast_cancer)(return_X_y=True)
    x, x_validation, y, y_validation = train_test_split(
        x, y, train_size=min(600, len(x) // 2), random_state=0, stratify=y
    )
    scaler = StandardScaler().fit(x)
    return scaler.transform(x), y, scaler.transform(x_validation), y_validation


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """Error rates of digits classifiers after each epoch, shape (rates, penalties, widths, epochs)."""

    errors: NDArray[np.float64]
    rows: int

    @property
    def table(self) -> Table:
        """What they come to."""
        return Table(name="MLP, digits", rows=self.rows, errors=self.errors[..., -1])


def learning_curves(pool: Executor, *, rates: int, penalties: int, widths: Sequence[int]) -> Curves:
    """An MLP's learning rate, penalty and width, ``EPOCHS`` epochs each, really trained."""
    asked = [
        (rate, penalty, width)
        for rate in np.logspace(-4.5, -0.5, rates)
        for penalty in np.logspace(-6, 1, penalties)
        for width in widths
    ]
    errors = np.array(list(pool.map(_curve, asked, chunksize=2)))
    shape = (rates, penalties, len(widths), EPOCHS)
    return Curves(errors=errors.reshape(shape), rows=len(split("digits")[3]))


def _curve(asked: tuple[float, float, int]) -> list[float]:
    from sklearn.neural_network import MLPClassifier

    rate, penalty, width = asked
    x, y, x_validation, y_validation = split("digits")
    model = MLPClassifier((width,), learning_rate_init=rate, alpha=penalty, batch_size=32, random_state=0)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a rate that is much too large overflows, as it should
        for _ in range(EPOCHS):
            model.partial_fit(x, y, classes=range(10))
            found.append(1 - float(model.score(x_validation, y_validation)))
    return found
