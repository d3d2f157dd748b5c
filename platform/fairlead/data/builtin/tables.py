"""Built-in tables and the digits."""

import numpy as np

from fairlead.data.columns import Source
from fairlead.data.groups import band_codes, band_levels
from fairlead.errors import BadData, Problem

AGE_EDGES = (40.0, 60.0)


def diabetes() -> Source:
    """442 patients, ten measurements each; ``progression_above_median`` says whether the disease advanced more.

    Source: Efron, Hastie, Johnstone, Tibshirani 2004, Least Angle Regression, in its original units. The median
    is that of all 442 patients. ``age_band`` is ``<40``, ``40-60`` (60 not included) or ``>=60``.
    """
    from sklearn.datasets import load_diabetes

    frame = load_diabetes(as_frame=True, scaled=False).frame
    # The source gives sex as 1 and 2 and nowhere says which is which; the levels keep those codes, as guessing
    # would put a claim about women or men into every report.
    measured = {name: frame[name].to_numpy(np.float64) for name in frame.columns if name != "target"}
    measured["sex"] = measured["sex"].astype(np.int64)
    bands = np.array(band_levels(AGE_EDGES), dtype=object)[band_codes(measured["age"], AGE_EDGES)]
    above = frame["target"].to_numpy() > np.median(frame["target"])
    label = np.where(above, "above", "below").astype(object)
    return Source(
        uri="builtin://diabetes",
        num_rows=len(frame),
        columns={**measured, "age_band": bands, "progression_above_median": label},
        target="progression_above_median",
        positive="above",
        level_order={"age_band": band_levels(AGE_EDGES)},
        features=tuple(measured),
    )


def breast_cancer() -> Source:
    """569 biopsies, thirty measurements of cell nuclei each; ``diagnosis`` is malignant or benign.

    Source: Wolberg, Street, Mangasarian 1995, Breast Cancer Wisconsin (Diagnostic).
    """
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    features = tuple(str(name).replace(" ", "_") for name in bunch.feature_names)
    label = np.array([str(name) for name in bunch.target_names], dtype=object)[bunch.target]
    return Source(
        uri="builtin://breast_cancer",
        num_rows=len(label),
        columns={**dict(zip(features, bunch.data.T, strict=True)), "diagnosis": label},
        target="diagnosis",
        positive="malignant",
        features=features,
    )


def digits(*, first: int = 0, last: int = 9) -> Source:
    """1,797 handwritten digits of 8 × 8 pixels, 0 (paper) to 16 (ink); of them those from ``first`` to ``last``.

    Source: Alpaydin, Kaynak 1998, Optical Recognition of Handwritten Digits, test part. Nothing is known of the
    writers, so the one attribute is of the picture: ``ink``, ``light`` up to the median sum of pixels of all digits,
    else ``heavy``. Raises ``BadData`` where ``first`` is not below ``last``.
    """
    from sklearn.datasets import load_digits

    if first >= last:
        message = f"builtin://digits: first must be below last, not {first} and {last}"
        raise BadData(message, problems=(Problem(pointer="/data/uri", message=message),))
    bunch = load_digits()
    pictures = bunch.images.astype(np.float32)[:, None]
    ink = pictures.sum(axis=(1, 2, 3))
    heavy = ink > np.median(ink)
    chosen = (bunch.target >= first) & (bunch.target <= last)
    return Source(
        uri="builtin://digits",
        num_rows=int(chosen.sum()),
        columns={
            "ink": np.where(heavy[chosen], "heavy", "light").astype(object),
            "digit": bunch.target[chosen].astype(np.int64),
        },
        kind="images",
        array=pictures[chosen],
        target="digit",
        level_order={"ink": ("light", "heavy")},
    )


def lending(*, seed: int = 0, rows: int = 50_000) -> Source:
    """Made-up applicants for a loan, women held back by a known amount; ``approved`` is what was decided on them.

    With w = 1 for a woman and 0 for a man (half of the applicants each), m the means to repay, and every other letter a
    standard normal number, all independent:

    - approved = yes where ``m + 0.5 u - 0.6 w > 0``: of equal means, women were approved less often. This is the bias.
    - repaid = yes where ``m + 0.5 v > 0``: the truth, in which the sexes do not differ.
    - income = ``exp(3.5 + 0.4 (0.8 m - 0.5 w + 0.6 a))``, in thousands: unequal pay for equal means.
    - part_time = 1 with probability 0.45 for women and 0.15 for men: it says nothing of m, and much of the sex.
    - years_employed = ``max(0, 8 + 3 m - 2 w + 3 b)``; savings = ``exp(2 + 0.56 m + 0.56 c)``;
      debt_ratio = ``1 / (1 + exp(0.6 + 0.6 m + 0.6 d))``; age is uniform from 21 to 70, whole years, and unrelated.

    Hence P(approved | man) = 1/2 and P(approved | woman) = Phi(-0.6 / sqrt(1.25)) = 0.2958: a true gap of 0.2042 in
    ``approved`` by ``sex``, and none in ``repaid``, nor by ``age_band`` in either. ``sex`` is no feature unless a spec
    lists it; income, years employed and part-time work give it away.
    """
    random = np.random.RandomState(seed)  # legacy on purpose: its streams are frozen, so a seed names rows for ever
    woman = random.random_sample(rows) < 0.5
    age = random.randint(21, 71, size=rows).astype(np.float64)
    part_time = (random.random_sample(rows) < np.where(woman, 0.45, 0.15)).astype(np.int64)
    means, u, v, a, b, c, d = random.standard_normal((7, rows))
    bands = np.array(band_levels(AGE_EDGES), dtype=object)[band_codes(age, AGE_EDGES)]
    features = {
        "income": np.exp(3.5 + 0.4 * (0.8 * means - 0.5 * woman + 0.6 * a)).round(3),
        "savings": np.exp(2 + 0.56 * means + 0.56 * c).round(3),
        "debt_ratio": (1 / (1 + np.exp(0.6 + 0.6 * means + 0.6 * d))).round(4),
        "years_employed": np.maximum(0, 8 + 3 * means - 2 * woman + 3 * b).round(1),
        "part_time": part_time,
        "age": age,
    }
    return Source(
        uri="builtin://lending",
        num_rows=rows,
        columns={
            **features,
            "sex": np.where(woman, "female", "male").astype(object),
            "age_band": bands,
            "repaid": np.where(means + 0.5 * v > 0, "yes", "no").astype(object),
            "approved": np.where(means + 0.5 * u - LENDING_BIAS * woman > 0, "yes", "no").astype(object),
        },
        target="approved",
        positive="yes",
        level_order={"age_band": band_levels(AGE_EDGES)},
        features=tuple(features),
    )


LENDING_BIAS = 0.6
"""By how much more, in standard deviations of the means to repay, a woman had to have."""
