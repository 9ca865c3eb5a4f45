"""Whether a tokenizer has words to speak of, and the model an embedding for each of them."""

from typing import Any

from transformers import PreTrainedTokenizerBase

from trainer_core.errors import UnusableModel

_MIN_WORDS = 2  # without their files some tokenizers still have one, such as a lone "▁"


def check_words(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UnusableModel for a tokenizer of special tokens only, to which all text is unknown.

    transformers makes one where the files of the vocabulary are missing, and says nothing.
    """
    special = {*tokenizer.all_special_tokens, *tokenizer.added_tokens_encoder}
    num_words = sum(token not in special for token in tokenizer.get_vocab())
    if num_words < _MIN_WORDS:
        names: dict[str, str] = tokenizer.vocab_files_names
        expected = ", ".join(sorted(set(names.values()))) or "a vocabulary"
        raise UnusableModel(
            f"the model's tokenizer knows no words: it has {len(special)} special tokens and "
            f"nothing else; a {type(tokenizer).__name__} reads {expected}.",
            hint="Copy the tokenizer's files into the model's directory.",
        )


def check_embeddings(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UnusableModel if the tokenizer has tokens that the model has no embedding for."""
    num_embeddings = getattr(model.get_input_embeddings(), "num_embeddings", None)
    if num_embeddings is None:
        return  # some compute theirs, from characters or hashes
    vocabulary = tokenizer.get_vocab()
    token = max(vocabulary, key=vocabulary.__getitem__)
    if vocabulary[token] >= num_embeddings:
        raise UnusableModel(
            f"the tokenizer's token '{token}' has the id {vocabulary[token]}, and the model has "
            f"embeddings for {num_embeddings} ids, from 0.",
            hint="Use the tokenizer that belongs to the model, or resize the model's embeddings "
            "(resize_token_embeddings) and save it again.",
            detail={"num_embeddings": num_embeddings, "token_id": vocabulary[token]},
        )
