"""Made-up users and items whose tastes are known."""

import numpy as np
from numpy.typing import NDArray

from fairlead.data.columns import Source
from fairlead.data.interactions import pairs

FACTORS = 4
TASTE, POPULARITY, RATE = 2.5, 0.6, -4.2
NICHE_SHARE, NICHE_LOSS = 0.4, 1.2


def interactions(*, users: int = 500, items: int = 250, seed: int = 0) -> Source:
    """Every pair of a user and an item, and whether the user ``clicked``: by taste, and because others do.

    With ``u`` and ``v`` the taste of a user and the nature of an item, each FACTORS standard normal numbers, and ``b``
    how well an item is known, normal with mean 0 (``mainstream``) or -NICHE_LOSS (``niche``, NICHE_SHARE of all items)
    and standard deviation POPULARITY: clicked = yes with probability ``1 / (1 + exp(-x))``, where
    ``x = RATE + b + TASTE u.v / sqrt(FACTORS)``.

    Niche items are liked as well by those whose taste they meet, and are clicked less often because few know them.
    ``activity`` of a user: ``low`` up to the median number of clicks, else ``high``.
    """
    clicks, is_niche = drawn(users=users, items=items, seed=seed)
    number = clicks.sum(axis=1)
    activity = np.where(number > np.median(number), "high", "low").astype(object)
    group = np.where(is_niche, "niche", "mainstream").astype(object)
    return pairs(
        "builtin://interactions",
        np.repeat(np.arange(users), items),
        np.tile(np.arange(items), users),
        {
            "clicked": np.where(clicks.ravel(), "yes", "no").astype(object),
            "item_group": np.tile(group, users),
            "activity": np.repeat(activity, items),
        },
        user_names=[f"user-{number}" for number in range(users)],
        item_names=[f"item-{number}" for number in range(items)],
        level_order={"item_group": ("mainstream", "niche"), "activity": ("low", "high")},
    )


def drawn(*, users: int, items: int, seed: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each user clicked on each item, shape (users, items), and which items are niche, shape (items,)."""
    random = np.random.RandomState(seed)
    is_niche = random.random_sample(items) < NICHE_SHARE
    logits = true_logits(random, is_niche, users=users, items=items)
    return random.random_sample((users, items)) < 1 / (1 + np.exp(-logits)), is_niche


def true_logits(
    random: np.random.RandomState, is_niche: NDArray[np.bool_], *, users: int, items: int
) -> NDArray[np.float64]:
    """The log-odds of a click of each user on each item, shape (users, items)."""
    taste = random.standard_normal((users, FACTORS))
    nature = random.standard_normal((items, FACTORS))
    known = POPULARITY * random.standard_normal(items) - NICHE_LOSS * is_niche
    logits: NDArray[np.float64] = RATE + known + TASTE * taste @ nature.T / np.sqrt(FACTORS)
    return logits
