"""Vectors of words: means of them, files of them, and what may not be a vocabulary."""

import pytest
import torch

from unlabeled import encoders
from unlabeled.data.text.data import Texts
from unlabeled.encoders.word_vectors import NAMES, WordEncoder, build, fitted

TEXT = "the cat sat on the mat and the dog sat on the cat " * 3


@pytest.fixture
def encoder() -> WordEncoder:
    torch.manual_seed(0)
    return fitted("words-20-min3", Texts([TEXT, "a rare word"]))


def test_vocabulary_holds_frequent_words_first(encoder):
    assert encoder.vocabulary == ["the", "cat", "on", "sat", "and", "dog", "mat"]
    assert (
        encoder.numbers["sat"] == 3
        and encoder.dim == 20
        and encoder.config["vocabulary"] == encoder.vocabulary
    )
    shares = torch.tensor([12, 6, 6, 6, 3, 3, 3]) / 39
    torch.testing.assert_close(encoder.adapt.shares, shares)


def test_rows_fill_lines_with_zeros_and_start_small(encoder):
    assert encoder.rows.shape == (7, 32) and not encoder.rows[:, 20:].any()
    assert 0 < encoder.vectors.abs().max() <= 0.5 / 20 and encoder.vectors.shape == (7, 20)
    assert encoder.rows.data_ptr() % 64 == 0
    assert encoder.vectors.data_ptr() == encoder.rows.data_ptr()


def test_feature_is_the_mean_of_the_words_less_that_of_the_corpus(encoder):
    texts = Texts(["The cat; the unknown", "", TEXT])
    features = encoder(encoder.inputs(encoder.evaluation_view(texts).batch(torch.arange(3))))
    common = encoder.adapt.shares @ encoder.vectors
    the, cat = encoder.vectors[0], encoder.vectors[1]
    torch.testing.assert_close(features[0], (2 * the + cat) / 3 - common)
    assert not features[1].any()
    torch.testing.assert_close(
        features[2], torch.zeros(20), atol=1e-7, rtol=0
    )  # the corpus itself is the origin
    torch.testing.assert_close(
        encoder.features(encoder.inputs(encoder.evaluation_view(texts).batch(torch.arange(3))), "words"),
        features,
    )


def test_neither_order_nor_padding_nor_other_texts_matter(encoder):
    texts = Texts(["cat dog the", "the dog cat", "cat dog the", TEXT])
    words = encoder.evaluation_view(texts)
    together = encoder(encoder.inputs(words.batch(torch.arange(4))))
    torch.testing.assert_close(together[0], together[1])
    alone = encoder(encoder.inputs(words.batch(torch.tensor([0]))))
    torch.testing.assert_close(together[0], alone[0])


def test_raw_counts_words_without_vectors(encoder):
    batch = encoder.evaluation_view(Texts(["the the cat", "unknown"])).batch(torch.arange(2))
    raw = encoder.raw(batch)
    assert raw.shape == (2, 7) and not raw[1].any()
    expected = torch.tensor([3.0, 2.0, 1, 1, 1, 1, 1]).log()
    torch.testing.assert_close(raw[0], expected / expected.norm())


def test_saved_encoder_is_the_same_again(encoder, tmp_path):
    encoder.save(tmp_path / "encoder.safetensors")
    again = encoders.load(tmp_path / "encoder.safetensors")
    assert isinstance(again, WordEncoder) and again.vocabulary == encoder.vocabulary
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in encoder.state_dict().items())


def test_gensim_reads_the_exported_file(encoder, tmp_path):
    models = pytest.importorskip("gensim.models")
    encoder.save_word2vec(tmp_path / "vectors.txt")
    read = models.KeyedVectors.load_word2vec_format(str(tmp_path / "vectors.txt"))
    assert read.index_to_key == encoder.vocabulary
    assert torch.equal(torch.from_numpy(read.vectors.copy()), encoder.vectors)
    theirs = read.most_similar("cat", topn=6)
    assert [word for word, _ in encoder.nearest("cat", 6)] == [word for word, _ in theirs]
    assert [cosine for _, cosine in encoder.nearest("cat", 6)] == pytest.approx(
        [cosine for _, cosine in theirs], abs=1e-6
    )


def test_the_same_words_can_be_read_again_as_stretches(encoder):
    texts = Texts([TEXT, "the cat"])
    stretches = encoder.evaluation_view(texts, 10)
    assert stretches.shape == {"length": 10} and encoder.evaluation_view(stretches) is stretches


def test_every_name_is_a_width():
    for name in NAMES:
        assert fitted(name, Texts([TEXT * 2])).dim == int(name.partition("-")[2])


@pytest.mark.parametrize(
    "name", ["words", "words-0", "words-x", "word-100", "words-10-min0", "words-10-min", ""]
)
def test_bad_names_are_refused(name):
    with pytest.raises(ValueError, match="encoder must be words-N"):
        build(name, vocabulary=["a", "b"])


@pytest.mark.parametrize("vocabulary", [[], ["one"], ["a", "a"], ["a", "two words"], ["a", ""]])
def test_bad_vocabularies_are_refused(vocabulary):
    with pytest.raises(ValueError, match="vocabulary must have"):
        build("words-10", vocabulary=vocabulary)


def test_texts_without_known_words_have_features_of_zero(encoder):
    data = encoder.evaluation_view(Texts([encoder.vocabulary[0], "zzz"]))
    batch = data.batch(torch.tensor([1]))
    assert batch["tokens"].shape == (1, 0)
    assert torch.equal(encoder(encoder.inputs(batch)), torch.zeros(1, encoder.dim))
    assert encoder.raw(batch).abs().sum() == 0


def test_unknown_words_and_layers_are_refused(encoder):
    with pytest.raises(ValueError, match="word must be in the vocabulary"):
        encoder.nearest("zebra")
    with pytest.raises(ValueError, match="layer must be one of"):
        encoder.features(
            encoder.inputs(encoder.evaluation_view(Texts(["the cat"])).batch(torch.arange(1))), "nonsense"
        )


CHINESE = ["今天天气很好我们去公园散步", "孩子们在公园散步", "今天我们在公园"] * 5


def test_a_segmenter_is_kept_with_the_encoder_and_used_for_every_text(tmp_path):
    encoder = fitted("words-8", Texts(CHINESE, segmenter="characters"))
    assert {"公", "园"} <= set(encoder.vocabulary) and all(len(word) == 1 for word in encoder.vocabulary)
    encoder.save(tmp_path / "encoder.safetensors")
    again = encoders.load(tmp_path / "encoder.safetensors")
    batch = again.evaluation_view(Texts(["公园很大"])).batch(torch.tensor([0]))
    assert int(batch["mask"].sum()) == 3, "without the segmenter it would be one unknown word"


def test_sentences_that_would_count_as_words_are_said(caplog):
    fitted("words-8-min1", Texts(CHINESE))
    assert "100% of the letters are of scripts without spaces" in caplog.text and "--segmenter" in caplog.text
    caplog.clear()
    fitted("words-8-min1", Texts(CHINESE, segmenter="characters"))
    fitted("words-8-min1", Texts(["plain words with one 字"]))
    assert not caplog.records
