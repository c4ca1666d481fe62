from __future__ import annotations

import numpy as np

from catdog.evaluation.metrics import Confusion, score
from catdog.reporting import figures
from catdog.training.judge import Judgement
from catdog.training.loop import Epoch


def _texts(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def _epoch(number: int, loss: float) -> Epoch:
    labels, logits = np.array([0, 1]), np.array([-loss, loss])
    scores = score(labels, logits)
    return Epoch(number, scores, scores, 0.001, 1.0, 100.0, is_best=number == 2)


def test_a_confusion_figure_shows_counts_and_shares_of_each_true_class():
    figure = figures.confusion_figure(Confusion(90, 10, 0, 50), "validation")
    assert _texts(figure) == ["90\n90.0%", "10\n10.0%", "0\n0.0%", "50\n100.0%"]


def test_a_confusion_figure_of_one_class_alone_can_be_drawn():
    assert "0\n0.0%" in _texts(figures.confusion_figure(Confusion(0, 0, 1, 1), "validation"))


def test_figures_of_another_pair_name_its_classes():
    confusion = figures.confusion_figure(Confusion(9, 1, 0, 5), "validation", ("ant", "bee"))
    ticks = [tick.get_text() for tick in confusion.axes[0].get_xticklabels()]
    labels, logits = np.array([0, 0, 1, 1]), np.array([-2.0, -1.0, 1.0, 2.0])
    judgement = Judgement(labels, logits, logits, np.full(4, 0.5), np.full(3, 0.1), 1.0)
    (plot,) = figures.reliability_figure(judgement, ("ant", "bee")).axes
    (bars,) = figures.familiarity_figure(judgement, 0.01, ("ant", "bee")).axes
    legend = [text.get_text() for text in bars.get_legend().get_texts()]
    assert ticks == ["ant", "bee"]
    assert (plot.get_xlabel(), plot.get_ylabel()) == (
        "probability of a bee, as said",
        "share that are bee",
    )
    assert "neither ant nor bee" in legend


def test_learning_curves_mark_the_kept_epoch():
    figure = figures.learning_curves([_epoch(1, 0.5), _epoch(2, 1.0)], best_epoch=2)
    legend = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert "kept: epoch 2" in legend
    assert len(figure.axes[0].lines[1].get_xdata()) == 2


def test_a_grid_holds_every_picture_under_its_caption():
    pictures = [np.zeros((4, 6, 3), dtype=np.uint8)] * 5
    figure = figures.picture_grid(pictures, ["cat"] * 5, columns=3)
    assert [text.get_text() for text in figure.texts] == ["cat"] * 5
    canvas = figure.images[0].get_array()
    black = (canvas == 0).all(axis=2)
    corners = np.diff(black.astype(int), axis=1, prepend=0)
    assert sorted(set((corners == 1).sum(axis=1))) == [0, 2, 3]  # rows of three and of two
