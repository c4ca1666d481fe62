"""A binary image classifier by transfer learning, tracked and registered with MLflow.

The modules in reading order; each imports only from those above it:
filenames, classes, config, arguments, command, signals, durable, images, pen, animal, drawing,
sample, others, archive, download, exclusion, properties, intact, prepared, gathering, splitting,
prepare, launch, alive, ranks, device, workers, batches, data, model, engine, features, pixels,
calibration, familiarity, bootstrap, evaluate, paired, promotion, slices, audit, state, named,
train, checkpoint, lessons, prediction, classifier, explain, card, reload, parity, export,
judgement, figures, svg, charts, report, findings, page, delivery, outbox, store, notes,
provenance, tracking, records, upload, nested, runs, storage, study, trials, registry, contest,
succession, urls, photos, answers, sorting, predict, labelled, spark, table, scoring, promote,
trained, following, release, telling, pipeline, sweep, cards, app, serve.
"""

from __future__ import annotations

__version__ = "0.1.0"

Classes = tuple[str, str]
"""Class 0, the negative one, and class 1, the positive one."""

NEGATIVE, POSITIVE = CLASSES = ("cat", "dog")
"""The classes of the task that catdog comes with. The one logit answers: how much does this look
like class 1, a dog? Where the code speaks of cats and dogs, the same holds for any other pair."""

AUTO = "auto"
"""The value of a parameter that the data or the machine decide."""

NEITHER = "neither"
"""The label of a photo that looks like none of those the model was made for."""


FAILED, INTERRUPTED = 2, 130
"""Exit statuses: the user can put it right; Ctrl-C, or a signal that asks to end."""


class CatdogError(Exception):
    """Something the user can put right.

    The text says what happened, to which file or parameter, and what to type next.
    Scripts print it and exit with status 2; every other exception is a bug of ours.
    """
