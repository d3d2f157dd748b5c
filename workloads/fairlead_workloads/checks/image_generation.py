"""How well ``image_generation`` must make handwritten digits, by each of its methods.

The judge here is not the page's: scikit-learn's support vectors, fitted to the real pictures of the train split, say
whether a made picture passes for one of its class. Distances are Frechet's, of the features of a network that was
fitted to the same pictures, to the real pictures of the test split.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.svm import SVC

from fairlead.checking import Bar, Check, ready_spec, train_once
from fairlead.data import Dataset, open_dataset
from fairlead.data.export import read_model
from fairlead.data.torch import seed_epoch
from fairlead_workloads import image_generation as page

SPECS = {"diffusion": "digits_made_anew", "gan": "digits_by_gan"}
SHORT = {"diffusion": {"epochs": 9}, "gan": {"epochs": 26}}


def measure(seed: int, *, is_short: bool, scratch: Path) -> Mapping[str, float]:
    """For one picture of the class of each test record: share recognised, that of the worst class, Frechet distance."""
    dataset = open_dataset(ready_spec(SPECS["diffusion"], seed=seed).data)
    train, test = dataset.rows("train"), dataset.rows("test")
    judge = SVC(gamma=1e-3).fit(train.features.reshape(len(train), -1), train.labels)
    network = page.Judge(scaled(train.features), train.labels, classes=10, seed=seed + 1000)
    real = network.features(scaled(test.features))
    measured = {"judge_accuracy": float(judge.score(test.features.reshape(len(test), -1), test.labels))}
    measured["train_split_distance"] = page.frechet_distance(network.features(scaled(train.features)), real)
    for name, ready in SPECS.items():
        spec = ready_spec(ready, seed=seed, params=SHORT[name] if is_short else {})
        train_once(page.train, spec, export_to=scratch / name)
        made = page.load_generator(scratch / name)(test.labels, seed=seed + 1000)
        is_right = judge.predict(made.reshape(len(made), -1)) == test.labels
        measured[f"{name}_recognised"] = float(is_right.mean())
        measured[f"{name}_worst_class"] = min(float(is_right[test.labels == label].mean()) for label in range(10))
        measured[f"{name}_distance"] = page.frechet_distance(network.features(scaled(made)), real)
        untrained = made_untrained(scratch / name, dataset, seed=seed)
        measured[f"{name}_distance_at_start"] = page.frechet_distance(network.features(untrained), real)
    return measured


def scaled(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    """From -1, paper, to 1, full ink: what networks see."""
    return np.asarray(pictures / 8 - 1, dtype=np.float32)


def made_untrained(directory: Path, dataset: Dataset, *, seed: int) -> NDArray[np.float32]:
    """Pictures of the test split's classes by the weights that the training began with, from -1 to 1."""
    seed_epoch(seed, epoch=0, rank=0)
    model = page.model_of(read_model(directory).config)
    labels = dataset.rows("test").labels
    return page.made_by(model, page.noise_for(model, len(labels), seed=seed + 1000), labels)


def bars(*, recognised: float, worst_class: float, distance: float) -> tuple[Bar, ...]:
    """Of both methods."""
    return tuple(
        bar
        for name in SPECS
        for bar in (
            Bar(value=f"{name}_recognised", require=f">= {recognised}"),
            Bar(value=f"{name}_worst_class", require=f">= {worst_class}"),
            Bar(
                value=f"{name}_distance",
                require=f"<= {distance}",
                baseline=f"{name}_distance_at_start",
                compared="ratio",
            ),
        )
    )


CHECK = Check(
    measure=measure,
    bars=bars(recognised=0.9, worst_class=0.5, distance=0.5),
    short_bars=bars(recognised=0.5, worst_class=0.05, distance=0.5),
    quick={"params": {"epochs": 2, "width": 8, "batch_size": 256, "denoising_steps": 2, "sample_every": 2}},
)
