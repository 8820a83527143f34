"""What a choice was about and what came out: the ranking, the margin, how sure it is, and the command that is next."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unlabeled.evaluation.candidate_scores import Score, best, margin
from unlabeled.evaluation.table import aligned

__all__ = ["Choice", "Entry", "Round", "Terms"]

TITLES = {
    "rankme": "RankMe",
    "alpha": "alpha-ReQ, its distance from 1 with a minus",
    "lidar": "LiDAR",
    "silhouette": "silhouette",
}
AGREEMENT = {
    "rankme": ("0.27 [-0.33, 0.80]", "-0.37 [-0.89, 0.34]"),
    "alpha": ("-0.47 [-0.88, 0.08]", "-0.29 [-0.83, 0.32]"),
    "lidar": ("0.84 [0.67, 0.91]", "-0.71 [-0.88, -0.29]"),
    "silhouette": ("-0.25 [-0.76, 0.32]", "0.38 [-0.28, 0.81]"),
}
"""Rank correlation of each criterion with linear probes on CIFAR-10 and on KMNIST, from docs/benchmarks.md."""


@dataclass(frozen=True)
class Terms:
    """What a choice is about: the arguments of `choosing.choose`, with `criterion` None where labels decide."""

    data: str
    labels: str | None
    labels_per_class: int | str | None
    criterion: str | None
    minutes: float
    methods: Sequence[str]
    seed: int
    settings: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """As JSON gives it back."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    def number(self, value: float) -> str:
        """A score in words."""
        return f"{100 * value:.1f} %" if self.criterion is None else f"{value:.3g}"

    @property
    def unit(self) -> str:
        """What scores are."""
        return "accuracy" if self.criterion is None else TITLES[self.criterion]


@dataclass(frozen=True)
class Round:
    """What a candidate did in a round.

    Attributes:
        steps: Optimizer steps up to its end.
        seconds: Time of all of it.
        scoring_seconds: Time that the score took, a part of that.
        step_seconds: Time of an optimizer step.
        score: The score after it, the higher the better.
    """

    steps: int
    seconds: float
    scoring_seconds: float
    step_seconds: float
    score: float


@dataclass
class Entry:
    """A candidate and how it went.

    Attributes:
        name: What it is called.
        method: Name of the method.
        settings: Run settings and options that differ from its defaults.
        folder: Folder of its run, which is kept.
        rounds: Those that it took part in.
        failure: Why it was left out; else empty.
        target: Optimizer steps to which it is being trained.
    """

    name: str
    method: str
    settings: dict[str, Any]
    folder: Path
    rounds: list[Round] = field(default_factory=list)
    failure: str = ""
    target: int | None = None


@dataclass
class Choice:
    """A choice as far as it has come.

    Attributes:
        path: Its folder.
        terms: What it is about.
        entries: The candidates in the order in which they were named.
        shares: Minutes of training of each candidate in each round.
        labels_used: Which labels decided, in words; empty for none.
    """

    path: Path
    terms: Terms
    entries: list[Entry]
    shares: list[float] = field(default_factory=list)
    labels_used: str = ""

    @property
    def ranking(self) -> list[Entry]:
        """Candidates, those of the last round first, each round by its scores; those that failed come last."""
        return sorted(
            self.entries,
            key=lambda one: (not one.failure, len(one.rounds), one.rounds[-1].score if one.rounds else 0.0),
            reverse=True,
        )

    @property
    def finalists(self) -> list[Entry]:
        """Candidates of the last round, the best first."""
        most = max((len(one.rounds) for one in self.entries if not one.failure), default=0)
        return [one for one in self.ranking if not one.failure and len(one.rounds) == most]

    @property
    def winner(self) -> Entry:
        return self.finalists[0]

    @property
    def minutes(self) -> float:
        """Time that was spent."""
        return sum(one.seconds for entry in self.entries for one in entry.rounds) / 60

    def score_file(self, entry: Entry, number: int) -> Path:
        """Where the score of a candidate in a round is kept."""
        return self.path / "scores" / f"{entry.folder.name}-{number + 1}.json"

    def scores(self) -> list[Score]:
        """Scores of the finalists in the last round."""
        return [Score.read(self.score_file(one, len(one.rounds) - 1)) for one in self.finalists]

    @property
    def probability(self) -> float:
        """How probable it is that the winner is the best of the last round, by resampling what the scores are of."""
        return best(self.scores())[0]

    @property
    def margin(self) -> tuple[float, float, float] | None:
        """How far the winner is ahead of the next, with a 95 % interval; None where it is alone."""
        first, *others = self.scores()
        return margin(first, others[0]) if others else None

    @property
    def command(self) -> str:
        """The command that trains the winner longer."""
        one = self.winner
        words = ["unlabeled", "pretrain", one.method, self.terms.data, "--out", str(one.folder), "--resume"]
        return shlex.join([*words, "--steps", str(10 * one.rounds[-1].steps)])

    def rows(self) -> list[list[str]]:
        """The table: its head first, then a row for each candidate, the best first."""
        count = max(len(one.rounds) for one in self.entries)
        head = ["candidate", *(f"round {n + 1}, {self.terms.unit}" for n in range(count)), "steps", "seconds"]
        rows = [head]
        for one in self.ranking:
            cells = [self.terms.number(done.score) for done in one.rounds]
            cells += ["failed" if one.failure else "-"] * (count - len(cells))
            steps = f"{one.rounds[-1].steps:,}" if one.rounds else "-"
            rows.append([one.name, *cells, steps, f"{sum(done.seconds for done in one.rounds):.0f}"])
        return rows

    def table(self) -> str:
        """The table as plain text."""
        return aligned(self.rows())

    def lines(self) -> list[str]:
        """What was chosen, by what, by how much, how sure that is and what it cost, a sentence each."""
        terms, one = self.terms, self.winner
        by = (
            f"{self.labels_used}, cross-validated"
            if terms.criterion is None
            else f"{terms.unit}, without labels"
        )
        lines = [f"{one.name} is chosen, by {by}: {terms.number(one.rounds[-1].score)}."]
        others = len(self.finalists) - 1
        if (ahead := self.margin) is not None:
            value, low, high = ahead
            scale, unit = (100, " points") if terms.criterion is None else (1, "")
            lines.append(
                f"It is {scale * value:.3g} [{scale * low:.3g}, {scale * high:.3g}]{unit} ahead of "
                f"{self.finalists[1].name}. Among the {others + 1} of the last round its score is the highest with a "
                f"probability of {100 * self.probability:.0f} %, as far as other samples could change it; other seeds "
                "and longer trainings could too."
            )
        if ahead is not None and ahead[1] <= 0:
            lines.append("The interval includes 0: which of the two is better is open.")
        if terms.criterion is not None:
            lines.append(self._trust())
        lines += [
            f"{entry.name} failed and was skipped: {entry.failure}."
            for entry in self.entries
            if entry.failure
        ]
        scoring = sum(done.scoring_seconds for entry in self.entries for done in entry.rounds) / 60
        late = self.minutes > 1.1 * terms.minutes
        more = (
            ", more than was given, as each training takes 10 steps at least and a score takes its time"
            if late
            else ""
        )
        lines.append(
            f"It took {self.minutes:.3g} of {terms.minutes:g} min, {scoring:.2g} of them for scores{more}. Only the "
            f"training part of the data was read. To train the winner longer: {self.command}"
        )
        return lines

    def _trust(self) -> str:
        assert self.terms.criterion is not None
        first, second = AGREEMENT[self.terms.criterion]
        return (
            "A criterion without labels is not to be trusted alone: the rank correlation of this one with the accuracy "
            f"of linear probes was {first} on CIFAR-10 and {second} on KMNIST. A few labels of each class decide "
            "better (--labels FOLDER or --labels-per-class 10)."
        )

    def __str__(self) -> str:
        return "\n".join([self.table(), *self.lines()])

    def as_json(self) -> dict[str, Any]:
        """All of it for the file; conclusions are there once a round has ended."""
        content: dict[str, Any] = {
            "terms": self.terms.as_json(),
            "shares": self.shares,
            "labels_used": self.labels_used,
            "candidates": [
                {
                    **_plain(asdict(one)),
                    "folder": one.folder.name,
                    "rounds": [asdict(done) for done in one.rounds],
                }
                for one in self.entries
            ],
        }
        if any(one.rounds and not one.failure for one in self.entries):
            content["ranking"] = [one.name for one in self.ranking]
            content["minutes"] = self.minutes
            content["winner"], content["command"] = self.winner.name, self.command
            content["probability"], content["margin"] = self.probability, self.margin
        return content

    def load(self, content: Mapping[str, Any]) -> None:
        """Take over how far the stored choice has come."""
        self.shares, self.labels_used = content["shares"], content["labels_used"]
        stored = {one["name"]: one for one in content["candidates"]}
        for one in self.entries:
            if (known := stored.get(one.name)) is not None:
                one.rounds = [Round(**done) for done in known["rounds"]]
                one.failure, one.target = known["failure"], known["target"]


def _plain(value: Any) -> Any:
    """Values as JSON gives them back."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value
