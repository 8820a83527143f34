"""BERT and GPT on texts with one small budget, beside their controls.

    python benchmarks/text_methods.py --out runs/text [--seconds 600] [--methods bert,gpt] [--data topics,books]
    python benchmarks/text_methods.py --out runs/text --table      # only print what is there

Every method trains for about --seconds of processor time on `topics` (Python's manual, built in) and on `books`
(../shared/data/books, left out where it is missing). Then

- words and pairs (bert): share of hidden word pieces that are filled in rightly on the test part, beside that of always
  the commonest piece, and share of pairs told apart, beside a coin;
- perplexity and bits per byte (gpt) on the test part, beside a random twin, gzip -9 and counts of bytes and pieces;
- linear probes on `topics`, and on SUBJ and TREC of ../shared/data/sentence_cls where it is there, beside tf-idf of the
  same pieces, a random twin, and tf-idf of words by scikit-learn.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import unlabeled
from methods import parser, recipe, steps_within
from unlabeled import encoders, methods
from unlabeled.data import open_splits

SHARED = Path(__file__).parents[2] / "shared" / "data"
SOURCES = {"topics": "topics", "books": SHARED / "books"}
PROBES = {
    "topics": "topics",
    "subj": SHARED / "sentence_cls" / "subj",
    "trec6": SHARED / "sentence_cls" / "trec6",
}
CONTROLS = ("raw", "random")
ROUNDS = 4
"""Times that every test block is read with other hidden words."""


def there(places: dict[str, Any]) -> dict[str, Any]:
    """Those sources that exist."""
    return {name: place for name, place in places.items() if isinstance(place, str) or place.is_dir()}


@torch.no_grad()
def hidden_words(method: Any, train: Any, test: Any) -> dict[str, float]:
    """Accuracies of BERT on test blocks, and that of the commonest piece."""
    method.eval()
    blocks, sums = (
        method.training_view(test),
        {"hidden": 0.0, "next": 0.0, "pieces": 0, "pairs": 0, "commonest": 0},
    )
    commonest = int(method.training_view(train).counts(method.encoder.vocabulary).argmax())
    for seed in range(ROUNDS):
        order = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(seed))
        for number, rows in enumerate(order.split(64)):
            torch.manual_seed(1000 * seed + number)
            batch = blocks.batch(rows)
            x, chosen, tokens, label = method.task(batch)
            states = method.encoder.states(x)
            guesses = method.words(states[chosen], method.encoder.embeddings.weight).argmax(1)
            sums["hidden"] += int((guesses == tokens[chosen]).sum())
            sums["commonest"] += int((tokens[chosen] == commonest).sum())
            sums["pieces"] += len(guesses)
            sums["next"] += int((method.next(states[:, 0]).argmax(1) == label).sum())
            sums["pairs"] += int((label >= 0).sum())
    return {
        "hidden": sums["hidden"] / sums["pieces"],
        "commonest": sums["commonest"] / sums["pieces"],
        "next": sums["next"] / sums["pairs"],
        "pieces": sums["pieces"],
        "pairs": sums["pairs"],
    }


def words_tf_idf(place: Any) -> float:
    """Accuracy of tf-idf of words and word pairs with logistic regression."""
    train, test = (data for data in open_splits(place, kind="text"))
    keep = [int(row) for row in (train.labels >= 0).nonzero()]  # type: ignore[operator]
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+"),
        LogisticRegression(C=10, max_iter=1000),
    )
    model.fit([train.texts[row] for row in keep], train.labels[keep])  # type: ignore[attr-defined, index]
    known = [int(row) for row in (test.labels >= 0).nonzero()]  # type: ignore[operator]
    return model.score([test.texts[row] for row in known], test.labels[known])  # type: ignore[attr-defined, index]


def train_and_judge(name: str, source: str, encoder: str, seconds: float, out: Path) -> None:
    """One run and its scores, as JSON beside it."""
    train, test = open_splits(SOURCES[source], kind="text")
    settings = recipe(name) | {"encoder": encoder}
    method = methods.load(name)(encoders.fitted(encoder, train, kind="text"))
    steps = steps_within(seconds, method, train, settings["batch_size"], fewest=10)
    began = time.process_time()
    run = unlabeled.pretrain(name, train, out=out / f"{name}-{source}", steps=steps, device="cpu", **settings)
    about: dict[str, Any] = {"method": name, "source": source, "encoder": encoder, "steps": steps}
    about["seconds"] = round(time.process_time() - began)
    if name == "bert":
        about |= hidden_words(run.method, train, test)
    else:
        scores = unlabeled.evaluate(run, (train, test), probe="perplexity", device="cpu")
        about["perplexity"] = scores.records
    about["probes"] = {}
    for probe, place in there(PROBES).items():
        scores = unlabeled.evaluate(run, place, probe="linear", controls=CONTROLS, device="cpu")
        about["probes"][probe] = scores.records
    (run.path / "about.json").write_text(json.dumps(about, indent=1))
    print(
        name,
        source,
        {key: value for key, value in about.items() if not isinstance(value, (dict, list))},
        flush=True,
    )


def share(record: dict[str, Any]) -> str:
    return f"{100 * record['value']:.1f} [{100 * record['low']:.1f}, {100 * record['high']:.1f}]"


def tables(out: Path) -> str:
    """Markdown tables of all runs found."""
    runs = [json.loads(path.read_text()) for path in sorted(out.glob("*/about.json"))]
    lines = [
        "| run | encoder | steps | CPU seconds | hidden words | commonest piece | pairs (coin: 50) |",
        "|---|" + "---|" * 6,
    ]
    for run in runs:
        if run["method"] == "bert":
            numbers = " | ".join(f"{100 * run[key]:.1f}" for key in ("hidden", "commonest", "next"))
            lines.append(
                f"| bert on {run['source']} | {run['encoder']} | {run['steps']} | {run['seconds']} | {numbers} |"
            )
    for run in runs:
        if run["method"] == "gpt":
            lines += [
                "",
                f"gpt on {run['source']}: {run['encoder']}, {run['steps']} steps, {run['seconds']} CPU seconds",
                "",
            ]
            lines += ["| features | unit | value, 95 % interval |", "|---|---|---|"]
            for record in run["perplexity"]:
                interval = f"{record['value']:.3f} [{record['low']:.3f}, {record['high']:.3f}]"
                lines.append(f"| {record['features']} | {record['unit']} | {interval} |")
    names = list(there(PROBES))
    lines += ["", f"| linear probe | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for run in runs:
        for features in ("unlabeled", *CONTROLS):
            cells = [
                next((share(r) for r in run["probes"].get(probe, []) if r["features"] == features), "-")
                for probe in names
            ]
            lines.append(f"| {run['method']} on {run['source']}: {features} | {' | '.join(cells)} |")
    cells = [f"{100 * words_tf_idf(place):.1f}" for place in there(PROBES).values()]
    lines.append(f"| tf-idf of words and pairs, logistic regression | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    words = parser(__doc__ or "", "text", out=Path("runs/text"), seconds=600)
    words.add_argument("--data", default="topics,books")
    words.add_argument("--size", default="tiny", help="tiny, mini, small ... of bert-tiny")
    words.add_argument("--table", action="store_true", help="print the tables of the runs that are there")
    arguments = words.parse_args()
    torch.set_num_threads(arguments.threads)
    if not arguments.table:
        for source in arguments.data.split(","):
            if source not in there(SOURCES):
                print(f"{source} is left out: {SOURCES[source]} is missing")
                continue
            for name in arguments.methods.split(","):
                encoder = f"{name}-{arguments.size}"
                train_and_judge(name, source, encoder, arguments.seconds, arguments.out)
    print(tables(arguments.out))


if __name__ == "__main__":
    main()
