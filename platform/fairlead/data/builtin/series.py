"""Made-up series whose structure is known: one kind to foretell, one to classify."""

import numpy as np
from numpy.typing import NDArray

from fairlead.data.columns import Source


def cycles(*, seed: int = 0, stations: int = 8, months: int = 720) -> Source:
    """Monthly numbers of some stations, each with a trend, a year's season and a cycle whose length wanders.

    The number of station s in month t, with e, f and g standard normal numbers, all independent, and v, a and n from 0:

    - value = ``level + slope t + 2 sin(2 pi t / 12 + q) + 12 exp(a) exp(4 (cos(phase) - 1)) + n``: the cycle is a peak
      a fifth of it wide, and nearly flat between two peaks.
    - phase advances every month by ``2 pi / period exp(v)``, with ``v' = 0.95 v + 0.06 e``: peaks come early or late.
    - ``a' = 0.97 a + 0.06 f``: high and low peaks follow each other slowly.
    - ``n' = 0.7 n + 0.7 r g``: noise with r = 0.6 where ``weather`` is calm, every other station, and 1.8 where rough.

    level is uniform from 20 to 40, slope from -0.004 to 0.004, period from 26 to 34 months, q and the first phase from
    0 to 2 pi. A sum of past numbers (an autoregression) knows no wandering phase, a network may. To be cut by
    ``data.windows`` with ``time: month, series: station``.
    """
    random = np.random.RandomState(seed)
    level, slope = random.uniform(20, 40, stations), random.uniform(-0.004, 0.004, stations)
    season, phase = random.uniform(0, 2 * np.pi, (2, stations))
    period = random.uniform(26, 34, stations)
    is_rough = np.arange(stations) % 2 == 1
    speed = _wandering(random.standard_normal((months, stations)), keep=0.95, step=np.float64(0.06))
    height = _wandering(random.standard_normal((months, stations)), keep=0.97, step=np.float64(0.06))
    noise = _wandering(random.standard_normal((months, stations)), keep=0.7, step=0.7 * np.where(is_rough, 1.8, 0.6))
    month = np.arange(months)[:, None]
    phases = phase + np.cumsum(2 * np.pi / period * np.exp(speed), axis=0)
    peaks = 12 * np.exp(height) * np.exp(4 * (np.cos(phases) - 1))
    value = level + slope * month + 2 * np.sin(2 * np.pi * month / 12 + season) + peaks + noise
    names = np.array([f"station-{number + 1:02d}" for number in range(stations)], dtype=object)
    return Source(
        uri="builtin://cycles",
        num_rows=value.size,
        columns={
            "month": np.tile(np.arange(months, dtype=np.int64), stations),
            "station": np.repeat(names, months),
            "weather": np.repeat(np.where(is_rough, "rough", "calm").astype(object), months),
            "value": value.T.ravel().round(3),
        },
        target="value",
        features=("value",),
        level_order={"weather": ("calm", "rough")},
    )


def _wandering(
    shocks: NDArray[np.float64], *, keep: float, step: NDArray[np.float64] | np.float64
) -> NDArray[np.float64]:
    """``x' = keep x + step shock`` from 0, shape (months, stations)."""
    states = np.zeros_like(shocks)
    for month in range(1, len(shocks)):
        states[month] = keep * states[month - 1] + step * shocks[month]
    return states


def cylinder_bell_funnel(*, seed: int = 0, rows: int = 900) -> Source:
    """Series of 128 steps in which something happens between two moments: it is there, it grows, or it fades.

    From a (uniform, 16 to 32) to b (a plus uniform 32 to 96) a series has the form of its class, times 6 + h, and
    everywhere noise; h and the noise are standard normal numbers:

    - cylinder: 1; bell: ``(t - a) / (b - a)``; funnel: ``(b - t) / (b - a)``.

    ``duration`` is ``short`` where b - a is below 64, else ``long``. Source: Saito 1994, Local Feature Extraction and
    Its Applications.
    """
    random = np.random.RandomState(seed)
    classes = random.randint(0, 3, size=rows)
    begin, duration = random.randint(16, 33, size=rows), random.randint(32, 97, size=rows)
    height = 6 + random.standard_normal(rows)
    noise = random.standard_normal((rows, CBF_STEPS))
    done = (np.arange(CBF_STEPS) - begin[:, None]) / duration[:, None]  # 0 at a, 1 at b
    forms = np.choose(classes[:, None], [np.ones_like(done), done, 1 - done])
    series = height[:, None] * np.where((done >= 0) & (done <= 1), forms, 0.0) + noise
    return Source(
        uri="builtin://cylinder_bell_funnel",
        num_rows=rows,
        columns={
            "form": np.array(["cylinder", "bell", "funnel"], dtype=object)[classes],
            "duration": np.where(duration < CBF_STEPS // 2, "short", "long").astype(object),
        },
        kind="sequences",
        array=series.astype(np.float32)[:, :, None],
        target="form",
        level_order={"duration": ("short", "long")},
    )


CBF_STEPS = 128
