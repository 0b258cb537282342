"""What Zaremba, Sutskever and Vinyals (2014, arXiv 1409.2329) publish, row by row, and which runs stand beside it."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table: the results that belong to it, and the paper's figures for it."""

    label: str
    recipe: str
    regularization: str
    """As in the result files: none, paper, standard, ..."""
    members: int = 1
    """How many models are averaged."""
    evaluation: str = "static"
    paper: Mapping[str, float] = field(default_factory=dict)
    """By figure, `valid_perplexity`; empty for what the paper does not report."""
    instead: Mapping[str, str] = field(default_factory=dict)
    """Figures that stand in this row in the place of the columns' own, by the column's figure."""

    def figure(self, column: str) -> str:
        """What this row has in a column, given as the column's figure."""
        return self.instead.get(column, column)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the paper."""

    title: str
    setting: str
    """What the paper's figures were taken on, and what ours are."""
    columns: Mapping[str, str]
    """Figures and how they are headed."""
    rows: tuple[Row, ...]
    predictions: int | None = None
    """What a result has to be measured on to stand here; None: anything."""


def _averaged(size: str, recipe: str, regularization: str, figures: Mapping[int, tuple[float, float]]) -> list[Row]:
    return [
        Row(
            label=f"{members} {size}, averaged",
            recipe=recipe,
            regularization=regularization,
            members=members,
            paper={"valid_perplexity": valid, "test_perplexity": test},
        )
        for members, (valid, test) in figures.items()
    ]


def _single(label: str, recipe: str, regularization: str, valid: float, test: float) -> Row:
    return Row(
        label=label,
        recipe=recipe,
        regularization=regularization,
        paper={"valid_perplexity": valid, "test_perplexity": test},
    )


_EVALUATIONS = {
    "temperature": "softmax temperature from valid",
    "cache": "neural cache",
    "dynamic": "dynamic evaluation",
}

TABLE_1 = Table(
    title="Table 1: Penn Treebank, word-level perplexity",
    setting="both on the Penn Treebank of 10,000 types",
    columns={"valid_perplexity": "valid", "test_perplexity": "test"},
    predictions=82_429,
    rows=(
        _single("non-regularised LSTM, 2 x 200", "ptb-small", "none", 120.7, 114.5),
        _single("medium with D, 2 x 650", "ptb-medium", "paper", 86.2, 82.7),
        _single("large with D, 2 x 1500", "ptb-large", "paper", 82.2, 78.4),
        *_averaged("small", "ptb-small", "none", {2: (100.4, 96.1), 5: (87.9, 84.1), 10: (83.5, 80.0)}),
        *_averaged("medium", "ptb-medium", "paper", {2: (80.6, 77.0), 5: (76.7, 73.3), 10: (75.2, 72.0)}),
        *_averaged("large", "ptb-large", "paper", {2: (76.9, 73.6), 10: (72.8, 69.5), 38: (71.9, 68.7)}),
        Row(label="small with D", recipe="ptb-small", regularization="paper"),
        *(
            Row(label=f"{size}, {words}", recipe=f"ptb-{size}", regularization=regularization, evaluation=name)
            for size, regularization in (("small", "none"), ("medium", "paper"))
            for name, words in _EVALUATIONS.items()
        ),
        Row(label="2 x 300 without D", recipe="ptb-300", regularization="none"),
        Row(label="2 x 300 with D", recipe="ptb-300", regularization="paper"),
        Row(label="2 x 300, one mask for the batch", recipe="ptb-300", regularization="batch"),
        Row(label="2 x 300, standard dropout", recipe="ptb-300", regularization="standard"),
    ),
)

_ACCURACY = {"train_frame_accuracy": "train", "valid_frame_accuracy": "valid", "test_frame_accuracy": "test"}


def _speech(label: str, recipe: str, regularization: str, *, members: int = 1, states: bool = False) -> Row:
    """A row of Table 2; the paper's figures, which are of states of one model, stand beside those."""
    paper = {"none": {"train": 71.6, "valid": 68.9}, "paper": {"train": 69.4, "valid": 70.5}} if states else {}
    return Row(
        label=label,
        recipe=recipe,
        regularization=regularization,
        members=members,
        paper={f"{part}_state_accuracy": p for part, p in paper.get(regularization, {}).items() if members == 1},
        instead={column: column.replace("frame", "state") for column in _ACCURACY} if states else {},
    )


TABLE_2 = Table(
    title="Table 2: speech, accuracy of frames in percent",
    setting="the paper, of phonetic states, on 93,000 Icelandic utterances; here on 620 Russian ones of one speaker: "
    "compare differences",
    columns=_ACCURACY,
    rows=(
        _speech("states, without D", "speech-ru-states", "none", states=True),
        _speech("states, with D", "speech-ru-states", "paper", states=True),
        _speech("states, standard dropout", "speech-ru-states", "standard", states=True),
        _speech("states, 3 without D, averaged", "speech-ru-states", "none", members=3, states=True),
        _speech("states, 3 with D, averaged", "speech-ru-states", "paper", members=3, states=True),
        _speech("phones of the same, without D", "speech-ru-states", "none"),
        _speech("phones of the same, with D", "speech-ru-states", "paper"),
        _speech("phones, without D", "speech-ru", "none"),
        _speech("phones, with D", "speech-ru", "paper"),
        _speech("phones, standard dropout", "speech-ru", "standard"),
        _speech("phones, 3 without D, averaged", "speech-ru", "none", members=3),
        _speech("phones, 3 with D, averaged", "speech-ru", "paper", members=3),
        _speech("phones, BLSTM without D", "speech-ru-blstm", "none"),
        _speech("phones, BLSTM with D", "speech-ru-blstm", "paper"),
    ),
)


def _pair(title: str, recipe: str, none: Mapping[str, float], paper: Mapping[str, float]) -> tuple[Row, Row]:
    return (
        Row(label=f"{title} without D", recipe=recipe, regularization="none", paper=none),
        Row(label=f"{title} with D", recipe=recipe, regularization="paper", paper=paper),
    )


TABLE_3 = Table(
    title="Table 3: translation, perplexity and BLEU on test",
    setting="the paper on WMT'14 English to French with 4 x 1000 units; multi30k rows on 29,000 short sentences: "
    "compare differences",
    columns={"test_perplexity": "perplexity", "test_bleu": "BLEU"},
    rows=(
        *_pair(
            "WMT'14 en-fr",
            "wmt14-en-fr",
            {"test_perplexity": 5.8, "test_bleu": 25.9},
            {"test_perplexity": 5.0, "test_bleu": 29.03},
        ),
        *_pair("multi30k de-en", "multi30k-de-en", {}, {}),
        Row(label="3 with D, averaged", recipe="multi30k-de-en", regularization="paper", members=3),
        *_pair("multi30k de-en, attention,", "multi30k-de-en-attention", {}, {}),
        Row(label="3 with attention, averaged", recipe="multi30k-de-en-attention", regularization="paper", members=3),
        *_pair("multi30k en-fr", "multi30k-en-fr", {}, {}),
    ),
)

TABLE_4 = Table(
    title="Table 4: image captions, perplexity, BLEU-4 and CIDEr on test",
    setting="the paper on MSCOCO, whose BLEU is that of its table; ucm-captions on 210 aerial images: compare "
    "differences",
    columns={"test_perplexity": "perplexity", "test_bleu4": "BLEU-4", "test_cider": "CIDEr"},
    rows=(
        *_pair("MSCOCO", "coco-captions", {"test_bleu4": 23.5}, {"test_bleu4": 24.3}),
        Row(
            label="MSCOCO, 10 without D, averaged",
            recipe="coco-captions",
            regularization="none",
            members=10,
            paper={"test_bleu4": 24.4},
        ),
        *_pair("aerial images", "ucm-captions", {}, {}),
        Row(label="10 without D, averaged", recipe="ucm-captions", regularization="none", members=10),
        Row(label="10 with D, averaged", recipe="ucm-captions", regularization="paper", members=10),
    ),
)

TABLES = {"table1": TABLE_1, "table2": TABLE_2, "table3": TABLE_3, "table4": TABLE_4}
