from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from trainer_core.spec.tasks.token_classification import SpansRow
from trainer_core.training.models.alignment import (
    encode_places,
    first_tokens,
    join_words,
    units_of_spans,
)

pytestmark = pytest.mark.slow

SENTENCES = [
    ["Ada", "met", "Bob", "#", "(", "ﬁn", ")"],
    ["", " ", "Å\u0301rhus", "\ufe0f", "💔 ", "👨‍👩‍👧", "\u2028"],
    ["New York", "İstanbul", "I'm", "http://t.co/x", "💔", "don't"],
    ["\xa0"],
]


def _make(backend: Tokenizer) -> PreTrainedTokenizerFast:
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    make: Any = PreTrainedTokenizerFast  # untyped
    tokenizer: PreTrainedTokenizerFast = make(
        tokenizer_object=backend, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    return tokenizer


def _word_piece() -> PreTrainedTokenizerFast:
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters), "#"]
    backend = Tokenizer(
        models.WordPiece({word: n for n, word in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _make(backend)


def _unigram() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=60,
        special_tokens=["[UNK]", "[CLS]", "[SEP]"],
        unk_token="[UNK]",
        show_progress=False,
    )
    backend.train_from_iterator(["a met b met c do don did x", "ork ork met ad ob"], trainer)
    return _make(backend)


def _byte_level() -> PreTrainedTokenizerFast:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["[UNK]", "[CLS]", "[SEP]"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator(["Ada met Bob"], trainer)
    return _make(backend)


@pytest.mark.parametrize("make", [_word_piece, _unigram, _byte_level])
def test_first_tokens_are_those_of_words_tokenized_one_by_one(
    make: Callable[[], PreTrainedTokenizerFast],
) -> None:
    tokenizer = make()
    for words in SENTENCES:
        joined = join_words(words)
        (tokens,) = encode_places(tokenizer, [joined.text], max_length=1000)
        # Of white space a byte-level tokenizer makes tokens where it is a word of its own.
        expected = tokenizer([word.strip() for word in words], is_split_into_words=True)
        owners = expected.word_ids()
        assert list(tokens.ids) == expected["input_ids"]
        assert first_tokens(joined, tokens).tolist() == [
            owners.index(number) if number in owners and word.strip() else -1
            for number, word in enumerate(words)
        ]


def test_words_after_the_cut_have_no_token() -> None:
    words = ["ada", "met", "bob"]
    joined = join_words(words)
    (tokens,) = encode_places(_word_piece(), [joined.text], max_length=6)
    assert len(tokens.ids) == 6
    assert tokens.is_truncated
    assert first_tokens(joined, tokens).tolist() == [1, 4, -1]
    (tokens,) = encode_places(_word_piece(), [joined.text], max_length=11)
    assert not tokens.is_truncated


def test_a_span_is_of_all_tokens_that_it_touches_and_is_kept_without_any() -> None:
    text = "ada \ufe0f met bob"
    spans = [(1, 3, "X"), (4, 5, "Y"), (8, 11, "Z")]
    row = SpansRow.model_validate(
        {"text": text, "spans": [{"start": s, "end": e, "label": name} for s, e, name in spans]}
    )
    (tokens,) = encode_places(_word_piece(), [text], max_length=1000)
    units = units_of_spans(row, tokens)
    assert units.tags == ["O", "B-X", "I-X", "O", "O", "B-Z", "I-Z", "O", "O", "B-Y"]
    assert units.tokens.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, -1]
    assert (units.starts[-1], units.ends[-1]) == (4, 5)
