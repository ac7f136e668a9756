"""What a judge's own errors do to a gate: corrected rates, and the flips that the errors alone explain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_trust.errors import InvalidInput
from pytest_trust.records import CorrectedRate, JudgeError


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How often a judge is right, measured on human labels.

    `sensitivity` is the share of the `positives` (responses labelled `positive`) that it calls so, `specificity` the
    share of the `negatives` (the others) that it does not call so. `labels` names the labels.
    """

    positive: str
    sensitivity: float
    specificity: float
    positives: int | None = None
    negatives: int | None = None
    labels: str = ""

    def __post_init__(self) -> None:
        for name in ("sensitivity", "specificity"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise InvalidInput(f"{name} is {value}, expected a share from 0 to 1")
        if self.sensitivity + self.specificity <= 1:
            raise InvalidInput(
                f"sensitivity {self.sensitivity:g} + specificity {self.specificity:g} is not above 1: "
                "a judge no better than chance"
            )

    def of_bad(self, counts: Sequence[str]) -> Accuracy:
        """The accuracy at finding what a gate counts as bad.

        It stays as it is where the gate counts `positive`, and is turned round where the gate counts the others.
        """
        if self.positive in counts:
            return self
        return Accuracy(
            f"not {self.positive}", self.specificity, self.sensitivity, self.negatives, self.positives, self.labels
        )


def judge_error(
    baseline: Sequence[float],
    candidate: Sequence[float],
    changed: int,
    accuracy: tuple[Accuracy, Accuracy],
    *,
    confidence: float = 0.95,
) -> JudgeError | None:
    """What the judge's errors contribute to a gate with one judged response a probe; None when no rate was measured.

    baseline, candidate: scores 0 or 1 (1 is bad; NaN is not measured).
    changed: pairs whose two answers are different texts. Equal answers are judged alike and cannot flip.
    accuracy: the judge's at finding "bad", on the baseline's and on the candidate's answers.

    Corrected rates are Rogan and Gladen's (1978). `flips_expected` is the number of pairs that would flip to worse if
    every answer had kept its true class and errors were independent:
    changed x [q (1 - se_b) se_c + (1 - q) sp_b (1 - sp_c)], where q is the mean of the two corrected rates.
    `flips_limit` is the quantile of that binomial distribution at `confidence`.
    """
    from scipy import stats

    from pytest_trust.stats.corrections import correct_rate

    rates = []
    for scores, side in zip((baseline, candidate), accuracy, strict=True):
        measured = [score for score in scores if score == score]
        if not measured:
            return None
        corrected = correct_rate(
            sum(measured) / len(measured),
            side.sensitivity,
            side.specificity,
            n=len(measured),
            n_sensitivity=side.positives,
            n_specificity=side.negatives,
            confidence=confidence,
        )
        rates.append(
            CorrectedRate(
                sensitivity=side.sensitivity,
                specificity=side.specificity,
                corrected=corrected.value,
                lower=corrected.lower,
                upper=corrected.upper,
            )
        )
    before, after = accuracy
    share = (rates[0].corrected + rates[1].corrected) / 2
    flip = share * (1 - before.sensitivity) * after.sensitivity + (1 - share) * before.specificity * (
        1 - after.specificity
    )
    return JudgeError(
        baseline=rates[0],
        candidate=rates[1],
        labels=before.labels,
        flips_expected=changed * flip,
        flips_limit=int(stats.binom.ppf(confidence, changed, flip)) if changed else 0,
    )
