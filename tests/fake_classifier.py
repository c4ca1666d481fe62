"""A classifier that goes by colour: red is a cat, blue a dog, green neither."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np

from catdog import CLASSES
from catdog.data import images
from catdog.data.images import UnreadableImageError
from catdog.inference.prediction import Options, Prediction, unanswered


class ColourClassifier:
    """`learned` are the digests of the photos that it learned from."""

    def __init__(self) -> None:
        self.about = SimpleNamespace(classes=CLASSES)
        self.learned: frozenset[str] = frozenset()

    def learned_from(self, sha256s: Iterable[str]) -> np.ndarray:
        return np.array([sha256 in self.learned for sha256 in sha256s])

    def predict(self, contents: Sequence[bytes], options: Any = None) -> list[Prediction]:
        return [self._predict(content, options or Options()) for content in contents]

    def outputs(
        self, items: Iterable[Any], read: Callable, **_: Any
    ) -> Iterator[tuple[Any, tuple[float, float] | str]]:
        for item, answer in self.stream(items, read, Options(reject=False)):
            logit = float(np.log(answer.p_positive / (1 - answer.p_positive)))
            yield item, answer.error or (logit, answer.familiarity)

    def stream(
        self,
        items: Iterable[Any],
        read: Callable,
        options: Any = None,
        *,
        batch_size: int | None = None,
    ) -> Iterator[tuple[Any, Prediction]]:
        waiting = iter(items)
        with ThreadPoolExecutor(2) as workers:
            while some := list(islice(waiting, batch_size or 16)):
                work = [
                    workers.submit(self._try, read, item, options or Options()) for item in some
                ]
                for item, answer in zip(some, work, strict=True):
                    yield item, answer.result()

    def _try(self, read: Callable, item: Any, options: Options) -> Prediction:
        try:
            return self._predict(read(item), options)
        except OSError as error:
            return unanswered(error.strerror or str(error))
        except UnreadableImageError as error:
            return unanswered(str(error))

    def _predict(self, content: bytes, options: Options) -> Prediction:
        try:
            red, green, blue = _mean(content)
        except UnreadableImageError as error:
            return unanswered(str(error))
        p_dog = float(1 / (1 + np.exp((red - blue) / 20)))
        if options.reject and green > max(red, blue):
            return Prediction("neither", 0.9, p_dog, 0.0)
        label = "dog" if p_dog >= options.threshold else "cat"
        return Prediction(label, max(p_dog, 1 - p_dog), p_dog, 0.5)


def _mean(content: bytes) -> tuple[float, float, float]:
    return tuple(np.asarray(images.decode(content), dtype=float).mean(axis=(0, 1)))
