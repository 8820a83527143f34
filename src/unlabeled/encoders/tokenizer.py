"""Tokenizers learned from texts: WordPiece as BERT has it, and pairs of bytes as GPT-2 has them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from unlabeled.parts.vocabulary import SOUTH_EAST_ASIAN

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["BERT_TOKENS", "END", "Family", "learn_tokenizer"]

Family = Literal["bert", "gpt", "nplm"]

BERT_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
END = "<|endoftext|>"
"""The one special token of GPT-2."""
MOST_CHARACTERS = 20_000_000
"""Characters that a tokenizer is learned from."""


def learn_tokenizer(texts: Sequence[str], family: Family, vocabulary: int) -> "Tokenizer":
    """Learn a vocabulary of word pieces: BERT's (WordPiece, lower case) or GPT-2's (pairs of bytes).

    Args:
        texts: Texts to learn from; their first 20 million characters are read.
        family: bert; gpt and nplm read pairs of bytes.
        vocabulary: Most tokens.
    """
    from tokenizers import processors

    texts = _first(texts)
    if family == "bert":
        tokenizer, special = _word_pieces(texts, vocabulary), ["[CLS]", "[SEP]"]
        single, pair = "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"
    else:
        tokenizer, special = _byte_pairs(texts, vocabulary), [END]
        single, pair = f"{END} $A", f"{END} $A $B:1"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(token, tokenizer.token_to_id(token)) for token in special]
    )
    return tokenizer


def _word_pieces(texts: list[str], vocabulary: int) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    normalizer = normalizers.BertNormalizer(lowercase=True)
    alphabet = _alphabet(map(normalizer.normalize_str, texts), vocabulary // 4)
    # Without their numbers beforehand the pieces would be numbered in another order each time.
    inner = [f"##{letter}" for letter in alphabet]
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # type: ignore[call-arg]
    # As BERT does with Chinese characters; else a Thai sentence would be one word, and too long to be known.
    letters = pre_tokenizers.Split(Regex(SOUTH_EAST_ASIAN), "isolated")
    cutter: Any = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), letters])
    learner.normalizer, learner.pre_tokenizer = normalizer, cutter
    trainer: Any = trainers.WordPieceTrainer(
        vocab_size=vocabulary,
        special_tokens=[*BERT_TOKENS, *inner],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    tokenizer = Tokenizer(models.WordPiece(learner.get_vocab(), unk_token="[UNK]"))  # type: ignore[call-arg]
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, cutter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(BERT_TOKENS)
    return tokenizer


def _byte_pairs(texts: list[str], vocabulary: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _alphabet(texts: Iterable[str], most: int) -> list[str]:
    """The commonest characters."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    letters = [letter for letter in counts if not letter.isspace()]
    return sorted(sorted(letters, key=lambda letter: (-counts[letter], letter))[:most])


def _first(texts: Sequence[str]) -> list[str]:
    """Texts up to as many characters as are enough."""
    first, left = [], MOST_CHARACTERS
    for text in texts:
        first.append(text[:left])
        left -= len(text)
        if left <= 0:
            break
    return first
