"""Where rows come from: addresses, columns, groups, record ids, digests, splits and exact shards.

Importing this package costs little: pandas, scikit-learn and the like are loaded when something is read, torch only
by ``fairlead.data.torch``.
"""

from fairlead.data.dataset import Dataset, check, open_dataset, require_kind
from fairlead.data.inputs import matrix_of
from fairlead.data.manifests import find_manifests, find_specs
from fairlead.data.records import Book, book_of, hash_ids
from fairlead.data.splits import SPLITS, Batch, batches, num_batches, shard_range, split_counts

__all__ = [
    "SPLITS",
    "Batch",
    "Book",
    "Dataset",
    "batches",
    "book_of",
    "check",
    "find_manifests",
    "find_specs",
    "hash_ids",
    "matrix_of",
    "num_batches",
    "open_dataset",
    "require_kind",
    "shard_range",
    "split_counts",
]
