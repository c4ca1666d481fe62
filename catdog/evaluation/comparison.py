"""Two classifiers' answers for the same photos → how much better one is, and how sure that is.

Each photo is judged by both, so what makes it hard cancels out: a pair tells far more than
two accuracies whose intervals overlap. Pure.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import binomtest

from catdog.evaluation.calibration import Labels, Logits, log_losses, predicted_labels
from catdog.evaluation.intervals import newcombe, resamples

SURE = 0.05
"""Chance of a difference like this between equals below which it is called sure."""


@dataclass(frozen=True)
class Paired:
    """A challenger against a champion on `count` photos; differences are challenger − champion.

    Attributes:
        count: of the photos.
        fixed: photos that only the challenger gets right.
        broken: photos that only the champion gets right.
        accuracy: difference of the accuracies, with its 95 % interval in the next two.
        p_value: of McNemar's exact test that both are equally accurate.
        log_loss: difference of the log-losses in nats, below zero where the challenger's
            probabilities are better; its 95 % interval in the next two.
        champion_accuracy, champion_log_loss: what the differences start from.
    """

    count: int
    fixed: int
    broken: int
    accuracy: float
    accuracy_ci_low: float
    accuracy_ci_high: float
    p_value: float
    log_loss: float
    log_loss_ci_low: float
    log_loss_ci_high: float
    champion_accuracy: float
    champion_log_loss: float

    @property
    def surely_better(self) -> bool:
        """Whether more answers are right, or probabilities better, than chance explains."""
        return self._more_right(self.fixed, self.broken) or self.log_loss_ci_high < 0

    @property
    def surely_worse(self) -> bool:
        """Whether fewer answers are right, or probabilities worse, than chance explains."""
        return self._more_right(self.broken, self.fixed) or self.log_loss_ci_low > 0

    def to_dict(self, prefix: str = "") -> dict[str, float]:
        """The numbers of the comparison itself by name, with `prefix` before each."""
        numbers = asdict(self)
        del numbers["champion_accuracy"], numbers["champion_log_loss"]
        return {f"{prefix}{name}": value for name, value in numbers.items()}

    def summary(self) -> str:
        """The same in one clause."""
        return (
            f"{self.fixed} of {self.count:,} photos put right and {self.broken} made wrong, "
            f"accuracy {100 * self.accuracy:+.2f} points "
            f"(95 %: {100 * self.accuracy_ci_low:+.2f} to {100 * self.accuracy_ci_high:+.2f}, "
            f"McNemar p {self.p_value:.2g}), log-loss {self.log_loss:+.4f} "
            f"(95 %: {self.log_loss_ci_low:+.4f} to {self.log_loss_ci_high:+.4f})"
        )

    def table(self, champion: str) -> str:
        """The same as a table in Markdown, with what both reach; `champion` is its version."""
        lines = [
            f"| {self.count:,} photos that neither learned from | version {champion} "
            "| this version | difference (95 % interval) |",
            "|---|---|---|---|",
        ]
        for name, form in (("accuracy", ".2%"), ("log_loss", ".4f")):
            before, change, low, high = (
                getattr(self, it)
                for it in (f"champion_{name}", name, f"{name}_ci_low", f"{name}_ci_high")
            )
            lines.append(
                f"| {name.replace('_', '-')} | {before:{form}} | {before + change:{form}} "
                f"| {change:+{form}} ({low:+{form}} to {high:+{form}}) |"
            )
        return "\n".join(lines)

    def _more_right(self, more: int, fewer: int) -> bool:
        return more > fewer and self.p_value < SURE


def compare_answers(labels: Labels, champion: Logits, challenger: Logits, *, seed: int) -> Paired:
    """Compare calibrated logits `(N,)` of two classifiers for photos of `labels` `(N,)`.

    The interval of the accuracy is Newcombe's for paired proportions (Statistics in Medicine
    17, 1998, method 10), which stays wide where few photos differ; that of the log-loss holds
    the percentiles of a bootstrap of the photos, each class by itself.
    """
    before, after = (predicted_labels(logits) == labels for logits in (champion, challenger))
    fixed, broken = int(np.sum(after & ~before)), int(np.sum(before & ~after))
    both, neither = int(np.sum(before & after)), int(np.sum(~before & ~after))
    losses = log_losses(labels, challenger) - log_losses(labels, champion)
    drawn = [weights @ losses for weights in resamples(labels, np.random.default_rng(seed))]
    low, high = np.percentile(np.concatenate(drawn) / len(labels), (2.5, 97.5))
    return Paired(
        len(labels),
        fixed,
        broken,
        (fixed - broken) / len(labels),
        *newcombe(both, fixed, broken, neither),
        mcnemar(fixed, broken),
        float(losses.mean()),
        float(low),
        float(high),
        (both + broken) / len(labels),
        float(log_losses(labels, champion).mean()),
    )


def mcnemar(fixed: int, broken: int) -> float:
    """How likely a split at least as uneven is, where either side is as likely for a photo.

    >>> mcnemar(0, 0), mcnemar(6, 0)
    (1.0, 0.03125)
    """
    if fixed + broken == 0:
        return 1.0
    return float(binomtest(fixed, fixed + broken).pvalue)
