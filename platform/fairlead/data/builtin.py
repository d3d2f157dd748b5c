"""The data sets that need no download: scikit-learn ships them."""

from collections.abc import Callable, Mapping

import numpy as np

from fairlead.data.columns import Source
from fairlead.data.groups import band_codes, band_levels

AGE_EDGES = (40.0, 60.0)
BUILTIN_PREFIX = "builtin://"


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


def digits() -> Source:
    """1,797 handwritten digits of 8 × 8 pixels, 0 (paper) to 16 (ink).

    Source: Alpaydin, Kaynak 1998, Optical Recognition of Handwritten Digits, test part. Nothing is known of the
    writers, so the one attribute is of the picture: ``ink``, ``light`` up to the median sum of pixels, else ``heavy``.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pictures = bunch.images.astype(np.float32)[:, None]
    ink = pictures.sum(axis=(1, 2, 3))
    return Source(
        uri="builtin://digits",
        num_rows=len(ink),
        columns={
            "ink": np.where(ink > np.median(ink), "heavy", "light").astype(object),
            "digit": bunch.target.astype(np.int64),
        },
        pictures=pictures,
        target="digit",
        level_order={"ink": ("light", "heavy")},
    )


BUILTIN: Mapping[str, Callable[[], Source]] = {
    "diabetes": diabetes,
    "breast_cancer": breast_cancer,
    "digits": digits,
}
