"""Word vectors beside gensim's, on the same words: python benchmarks/word_vectors.py FOLDER_OF_TEXTS

Both read the same stretches of at most 10,000 words, with the same vocabulary, width (100), window (5), noise words
(5), thinning (1e-3), learning rate (0.025 skip-gram, 0.05 CBOW) and epochs (5), in turns, with one worker and with
two, three seeds each. Speed is that of the training alone, without reading and counting words: words in the
vocabulary per second that the processors worked, and per second on the clock. Quality is measured by gensim's own
evaluators on its own lists, for ours after `save_word2vec` and `KeyedVectors.load_word2vec_format`: WordSim-353
(Spearman) and questions-words (3CosAdd).
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

import torch
from gensim.models import KeyedVectors, Word2Vec
from gensim.test.utils import datapath

from unlabeled.data.text.data import Texts
from unlabeled.encoders import word_vectors
from unlabeled.methods.cbow import CBOW
from unlabeled.methods.skipgram import SkipGram
from unlabeled.parts.neighbours import STRETCH

MODELS = {"skip-gram": (SkipGram, 0.025), "CBOW": (CBOW, 0.05)}


class Result(NamedTuple):
    """Words per second of the processors and on the clock, WordSim-353 and share of analogies solved."""

    busy: float
    clock: float
    similarity: float
    analogies: float


def judged(vectors: KeyedVectors) -> tuple[float, float]:
    similarity = vectors.evaluate_word_pairs(datapath("wordsim353.tsv"))[1].statistic
    return float(similarity), float(vectors.evaluate_word_analogies(datapath("questions-words.txt"))[0])


def ours(texts: Texts, data, model: str, workers: int, seed: int, epochs: int) -> Result:
    kind, rate = MODELS[model]
    torch.manual_seed(seed)
    encoder = word_vectors.fitted("words-100", texts)
    method = kind(encoder, rate=rate, threads=workers)
    method.prepare(data)
    method.eval()(data.batch(torch.arange(1)))  # compiles, and moves nothing
    method.train()
    steps = epochs * -(-len(data) // 8)
    busy, clock = time.process_time(), time.perf_counter()
    done = 0
    for _ in range(epochs):
        for rows in torch.randperm(len(data)).split(8):
            method(data.batch(rows))
            done += 1
            method.after_step(done / steps)
    busy, clock = time.process_time() - busy, time.perf_counter() - clock
    with tempfile.TemporaryDirectory() as folder:
        encoder.save_word2vec(path := Path(folder) / "vectors.txt")
        quality = judged(KeyedVectors.load_word2vec_format(str(path)))
    read = epochs * len(data.ids)
    return Result(read / busy, read / clock, *quality)


def theirs(sentences: list[list[str]], model: str, workers: int, seed: int, epochs: int) -> Result:
    trained = Word2Vec(
        vector_size=100,
        window=5,
        negative=5,
        sample=1e-3,
        min_count=5,
        alpha=MODELS[model][1],
        sg=int(model == "skip-gram"),
        workers=workers,
        seed=seed,
    )
    trained.build_vocab(sentences)
    read = sum(map(len, sentences))
    busy, clock = time.process_time(), time.perf_counter()
    trained.train(sentences, total_examples=len(sentences), epochs=epochs)
    busy, clock = time.process_time() - busy, time.perf_counter() - clock
    return Result(epochs * read / busy, epochs * read / clock, *judged(trained.wv))


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description="Word vectors beside gensim's.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--models", choices=MODELS, nargs="+", default=list(MODELS))
    chosen = parser.parse_args()
    files = sorted(chosen.folder.expanduser().rglob("*.txt"))
    texts = Texts([file.read_text(encoding="utf-8") for file in files])
    reader = word_vectors.fitted("words-100", texts)
    data = reader.training_view(texts, STRETCH)
    sentences = []
    for begin, length in zip(data.begins.tolist(), data.lengths.tolist()):
        stretch = slice(begin, begin + length)
        owners = data.documents[stretch]
        for part in data.ids[stretch].split(owners.unique_consecutive(return_counts=True)[1].tolist()):
            sentences.append([reader.vocabulary[word] for word in part.tolist()])
    print(
        f"{len(data.ids):,} words of {len(reader.vocabulary):,} different ones, {chosen.epochs} epochs, "
        "100 numbers each"
    )
    print("million words per second: of the processors (on the clock)\n")
    print(
        "| model | workers | seed | ours | gensim | ratio | WS-353 ours | gensim | analogies ours | gensim |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for model in chosen.models:
        for workers in chosen.workers:
            pairs = []
            for seed in chosen.seeds:
                how = (model, workers, seed, chosen.epochs)
                pair = ours(texts, data, *how), theirs(sentences, *how)
                pairs.append(pair)
                show(model, workers, str(seed), *pair)
            both = [
                Result(
                    *(median(values) for values in list(zip(*rows))[:2]),
                    *(mean(values) for values in list(zip(*rows))[2:]),
                )
                for rows in zip(*pairs)
            ]
            show(model, workers, "**median, mean**", *both)


def show(model: str, workers: int, seed: str, own: Result, other: Result) -> None:
    speeds = " | ".join(f"{some.busy / 1e6:.2f} ({some.clock / 1e6:.2f})" for some in (own, other))
    ratio = f"{own.busy / other.busy:.1f} ({own.clock / other.clock:.1f})"
    quality = f"{own.similarity:.3f} | {other.similarity:.3f} | {own.analogies:.3f} | {other.analogies:.3f}"
    print(f"| {model} | {workers} | {seed} | {speeds} | {ratio} | {quality} |", flush=True)


if __name__ == "__main__":
    main()
