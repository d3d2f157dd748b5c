"""Which data train, tune and test the model, who is in them, and how they are split."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from fairlead.spec.document import Document

Column = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Split = Literal["train", "validation", "test"]


class SplitSpec(Document):
    """Shares of the rows, drawn once by ``seed`` from the record order; they must add up to 1."""

    train: float = Field(default=0.6, gt=0, le=1)
    validation: float = Field(default=0.1, ge=0, lt=1)
    test: float = Field(default=0.3, ge=0, lt=1)
    seed: int = Field(default=0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train, validation and test add up to {total:g}, not to 1")
        return self


class BinSpec(Document):
    """Turns a number into a group: ``edges`` [40, 60] give ``<40``, ``40-60`` and ``>=60``."""

    column: Column
    edges: tuple[float, ...] = Field(min_length=1, max_length=50)

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if list(self.edges) != sorted(set(self.edges)):
            raise ValueError("edges must ascend without repeats")
        return self


class LabelNoiseSpec(Document):
    """Flips binary labels of a share of rows, to see whether the gates notice. Never in the test split."""

    where: dict[Column, str]
    """Group levels that a row must have, e.g. ``{sex: female}``."""
    share: float = Field(gt=0, le=1)
    flip_to: Annotated[str, StringConstraints(max_length=200)] | None = None
    """Only rows with another label are changed, to this one; absent: the label is inverted."""
    splits: tuple[Literal["train", "validation"], ...] = Field(default=("train",), min_length=1)
    seed: int = Field(default=0, ge=0, lt=2**32)


class WindowsSpec(Document):
    """Cuts the rows of a table, each a moment of a series, into windows: some steps seen, the next ones to foretell.

    ``data.target`` is then the column to foretell. Windows belong to splits by their time, not by chance: see
    ``fairlead.data.series``.
    """

    time: Column
    """The column that orders rows: numbers or dates, evenly spaced within a series."""
    series: Column | None = None
    """The column that tells series apart; absent: all rows are one."""
    steps: int = Field(ge=2, le=10_000)
    """Rows that the model sees."""
    horizon: int = Field(ge=1, le=10_000)
    """Rows after them that it foretells."""
    season: int = Field(default=1, ge=1, le=10_000)
    """Rows after which a series is expected to repeat itself; errors are told as multiples of those of repeating it."""


class TextSpec(Document):
    """How texts are cut into records."""

    record_bytes: int = Field(default=1024, ge=16, le=1_048_576)
    """The most bytes of one record, in UTF-8; no character is cut."""


class DataSpec(Document):
    """One data set: where it lies, what is predicted, and whose outcomes are compared."""

    uri: Annotated[str, StringConstraints(min_length=1, max_length=2000)]
    """``builtin://name``, ``file:///path``, a plain path, or any address fsspec reads: CSV, Parquet, an
    image folder with one directory a class, a text file or a folder of them, pairs of texts as TSV."""
    target: Column | None = None
    """The column to predict. Image folders and built-in sets have one of their own."""
    # Left out where it is as without it: specs keep their hashes, and agents of older releases can read them.
    predict: Literal["classes", "number"] = Field(default="classes", exclude_if=lambda value: value == "classes")
    """What the values of the target are: names of classes, whole numbers included, or a number to come near to."""
    positive: Annotated[str, StringConstraints(max_length=200)] | None = None
    """Label that counts as class 1 of a binary target. Absent: the one that sorts last (1, yes, True)."""
    features: tuple[Column, ...] | None = None
    """Columns the model sees. Absent: all but target, record id and sensitive ones."""
    sensitive: tuple[Column, ...] = Field(default=(), max_length=8)
    """Columns, or names in ``bins``, that are carried beside the features, never inside them unless listed."""
    bins: dict[Column, BinSpec] = Field(default_factory=dict)
    record_id: Column | None = None
    """A column that names each row for ever; absent: the row's position in the data."""
    # Left out where they are absent, as ``predict`` is.
    windows: WindowsSpec | None = Field(default=None, exclude_if=lambda value: value is None)
    """Of a table of moments: how it is cut into series to be foretold."""
    steps: int | None = Field(default=None, ge=2, le=10_000, exclude_if=lambda value: value is None)
    """Of a table with one series a row: its feature columns, in their order, are so many steps of one or more channels,
    all channels of the first step first."""
    seconds: float | None = Field(default=None, gt=0, le=600, exclude_if=lambda value: value is None)
    """Of sounds: how long each is made, by cutting its end or adding silence. Absent: as long as the longest."""
    streaming: bool = Field(default=False, exclude_if=lambda value: not value)
    """Of a CSV or Parquet table that does not fit into memory: its features stay on the disk of each node and are read
    batch by batch."""
    split: SplitSpec = SplitSpec()
    text: TextSpec | None = Field(default=None, exclude_if=lambda value: value is None)
    """Of texts only: how long a record is. Absent: the default of each field."""
    label_noise: LabelNoiseSpec | None = None

    @model_validator(mode="after")
    def _names_do_not_collide(self) -> Self:
        if self.target and self.features and self.target in self.features:
            raise ValueError(f"the target {self.target!r} is also listed as a feature")
        if len(set(self.sensitive)) != len(self.sensitive):
            raise ValueError("a sensitive column is listed twice")
        return self

    @model_validator(mode="after")
    def _windows_have_no_labels(self) -> Self:
        if self.windows is None:
            return self
        if self.steps is not None:
            raise ValueError("windows has steps of its own; data.steps is for tables with one series a row")
        if self.predict != "classes" or self.positive is not None or self.label_noise is not None:
            raise ValueError("with windows there are no labels: leave out predict, positive and label_noise")
        if self.record_id is not None:
            raise ValueError("with windows a record is a window and named by its series and time: leave out record_id")
        return self

    @model_validator(mode="after")
    def _streams_tables(self) -> Self:
        asked = {"windows": self.windows, "steps": self.steps, "seconds": self.seconds, "text": self.text}
        if self.streaming and (others := [name for name, value in asked.items() if value is not None]):
            raise ValueError(
                f"streaming is for tables of independent rows, and {others[0]} makes something else of them"
            )
        return self

    @property
    def is_there(self) -> bool:
        """Whether there is a data set at all; see ``NO_DATA``."""
        return self.uri != ""


NO_DATA = DataSpec.model_construct(uri="")
"""Of a workload that reads data of its own: the platform knows no row of them. A document says it by silence."""
