import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import (
    AlbertConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertTokenizer,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    RobertaConfig,
    set_seed,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

from tests.training.tiny import (
    WORDS,
    carry_out,
    chat_tokenizer,
    events_of,
    make_run,
    save_encoder,
    save_masker,
    stop_after,
)
from trainer_core.run_directory import Result, RunDirectory, file_sha256, read_json
from trainer_core.training.recipes import language_loss
from trainer_core.training.recipes.language_loss import LanguageLoss, find_logit_map, own_labels
from trainer_core.training.tasks.masked_lm import (
    MaskedCollator,
    Masking,
    _blocks,
    _special_tokens_around,
    _texts,
)

pytestmark = [
    pytest.mark.slow,
    # peft 0.21 asks models by a name that transformers 5.23 calls deprecated.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]

FAST = {"learning_rate": 5e-3, "batch_size": 16, "weight_decay": 0.0}
THINGS = {"red": "round", "green": "square", "blue": "small"}


@pytest.fixture(scope="module")
def masker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_masker(tmp_path_factory.mktemp("models") / "masker")


def _rows(count: int) -> list[dict[str, str]]:
    """Texts of which each word but the first follows from the others."""
    pairs = list(THINGS.items())
    texts = []
    for number in range(count):
        colour, thing = pairs[number % 3]
        texts.append(f"{WORDS[6 + number % 5]} it is {colour} {thing} is {colour} {thing}")
    return [{"text": text} for text in texts]


@pytest.fixture(scope="module")
def learnt(masker: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    spec = {"task": "masked-lm", "mlm_probability": 0.2, "training": {**FAST, "epochs": 12}}
    folder = tmp_path_factory.mktemp("learnt") / "run"
    directory = make_run(folder, model=masker, rows=_rows(300), spec=spec, eval=_rows(40))
    assert carry_out(directory).result is Result.SUCCEEDED
    return directory


def test_masked_words_are_guessed_from_the_others(learnt: RunDirectory) -> None:
    metrics = read_json(learnt.outcome)["metrics"]
    assert metrics["token_accuracy"] > 0.75
    assert metrics["perplexity"] == pytest.approx(np.exp(metrics["loss"]))


def test_the_lines_of_the_card_run_and_guess(
    learnt: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    card = (learnt.model / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    code = code.replace("path/to/this/folder", str(learnt.model))
    code = code.replace("A {", "old it is red {").replace("} to guess", "} is red round")
    exec(code, {})  # noqa: S102 - the card's own
    best = ast.literal_eval(capsys.readouterr().out)[0]
    assert best["token_str"] == "round"


def test_the_loss_is_that_of_transformers_over_all_masked_tokens(learnt: RunDirectory) -> None:
    tokenizer = AutoTokenizer.from_pretrained(learnt.model)
    model = AutoModelForMaskedLM.from_pretrained(learnt.model)
    draw = _masking(tokenizer, probability=0.2)
    total, count = 0.0, 0
    for number, row in enumerate(_rows(40)):
        ids = np.array(tokenizer(row["text"])["input_ids"])
        words = np.array([-1, *range(len(ids) - 2), -1])
        drawn = draw({"input_ids": ids, "words": words}, np.random.default_rng((42, 0, number)))
        batch = MaskedCollator(0)([drawn])
        num_targets = int(batch["labels"].ne(-100).sum())
        with torch.no_grad():
            total += float(model(**batch).loss) * num_targets
        count += num_targets
    metrics = read_json(learnt.outcome)["metrics"]
    assert metrics["loss"] == pytest.approx(total / count, rel=1e-4)


def _masking(tokenizer: Any, *, probability: float, whole_word: bool = False) -> Masking:
    ordinary = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
    return Masking(probability, whole_word, tokenizer.mask_token_id, np.array(ordinary))


def test_a_run_stopped_between_two_epochs_masks_anew_as_one_that_was_not(
    masker: Path, tmp_path: Path
) -> None:
    spec = {"task": "masked-lm", "training": {**FAST, "epochs": 2}}
    whole, halved = (
        make_run(tmp_path / name, model=masker, rows=_rows(60), spec=spec)
        for name in ("whole", "halved")
    )
    assert carry_out(whole).result is Result.SUCCEEDED
    assert stop_after(halved, step=3).step == 4  # of 8: the last one of the first epoch
    assert carry_out(halved).result is Result.SUCCEEDED
    hashes = [file_sha256(run.model / "model.safetensors") for run in (whole, halved)]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("adapter", [None, {"r": 4}])
def test_a_model_without_a_head_gets_a_new_one(adapter: Any, tmp_path: Path) -> None:
    model = save_masker(tmp_path / "body", has_head=False)
    spec = {"task": "masked-lm", "training": {**FAST, "epochs": 3}, "adapter": adapter}
    directory = make_run(tmp_path / "run", model=model, rows=_rows(200), spec=spec, eval=_rows(40))
    outcome = carry_out(directory)
    assert outcome.result is Result.SUCCEEDED
    assert "head_new" in [line.data["code"] for line in events_of(directory, "warning")]
    # The model that is handed out is the one that was measured.
    again = {"task": "masked-lm", "training": {**FAST, "learning_rate": 1e-9, "max_steps": 1}}
    second = make_run(
        tmp_path / "again", model=directory.model, rows=_rows(200), spec=again, eval=_rows(40)
    )
    assert carry_out(second).metrics["loss"] == pytest.approx(outcome.metrics["loss"], rel=1e-3)
    assert events_of(second, "warning") == []


def test_texts_are_packed_into_blocks(masker: Path, tmp_path: Path) -> None:
    spec = {
        "task": "masked-lm",
        "pack": True,
        "max_length": 34,
        "data": {"eval": None},
        "training": {**FAST, "epochs": 1},
    }
    directory = make_run(tmp_path / "run", model=masker, rows=_rows(90), spec=spec)
    assert carry_out(directory).result is Result.SUCCEEDED
    # 8 words and a separator a text, 32 of them in a block.
    assert read_json(directory.lineage)["num_rows"]["train"] == -(-90 * 9 // 32)
    assert events_of(directory, "warning") == []


def test_too_few_blocks_are_told_as_such(masker: Path, tmp_path: Path) -> None:
    spec = {"task": "masked-lm", "pack": True, "data": {"eval": None}}
    error = carry_out(make_run(tmp_path / "run", model=masker, rows=_rows(60), spec=spec)).error
    assert error is not None
    assert (error.code, error.param) == ("too_few_rows", "/pack")
    assert error.message.startswith("the training texts fill 9 blocks of 64 tokens")


def test_texts_of_unknown_words_are_left_out(masker: Path, tmp_path: Path) -> None:
    rows = [*_rows(40), {"text": "perhaps"}]
    spec = {"task": "masked-lm", "data": {"eval": None}, "training": {**FAST, "epochs": 1}}
    directory = make_run(tmp_path / "run", model=masker, rows=rows, spec=spec)
    assert carry_out(directory).result is Result.SUCCEEDED
    (warning,) = [line.data for line in events_of(directory, "warning")]
    assert warning["code"] == "rows_left_out"
    assert warning["message"].startswith("1 of 41 train rows are left out")


def test_a_split_of_unknown_words_alone_is_an_error(masker: Path, tmp_path: Path) -> None:
    spec = {"task": "masked-lm", "training": {**FAST, "epochs": 1}}
    unknown = [{"text": "perhaps"}] * 3
    directory = make_run(tmp_path / "run", model=masker, rows=_rows(40), spec=spec, eval=unknown)
    error = carry_out(directory).error
    assert error is not None
    assert (error.code, error.param) == ("too_few_rows", "/model")
    assert error.message.startswith("all 3 eval rows are left out: the tokenizer knows none")


def test_a_model_without_a_mask_is_refused(tmp_path: Path) -> None:
    model = save_encoder(tmp_path / "encoder")
    spec = {"task": "masked-lm"}
    error = carry_out(make_run(tmp_path / "run", model=model, rows=_rows(40), spec=spec)).error
    assert error is not None
    assert error.code == "unusable_model"


def _bytes_tokenizer() -> Any:
    tokenizer = chat_tokenizer(template=None)
    tokenizer.add_special_tokens({"mask_token": "<mask>", "pad_token": "<pad>"})
    return tokenizer


def _pieces_tokenizer() -> Any:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##guess", "##able", "it", "is"]
    make: Any = BertTokenizer
    return make(vocab={piece: number for number, piece in enumerate(pieces)})


@pytest.mark.parametrize("make", [_bytes_tokenizer, _pieces_tokenizer])
def test_tokens_of_a_word_are_masked_together(make: Any) -> None:
    tokenizer = make()
    (text,) = _texts(tokenizer, ["it is unguessable"])
    assert len(np.unique(text.words)) == 3 < len(text.ids)
    draw = _masking(tokenizer, probability=0.3, whole_word=True)
    chance = np.random.default_rng(0)
    for _ in range(50):
        drawn = draw({"input_ids": text.ids, "words": text.words}, chance)
        is_target = drawn["labels"] != -100
        assert is_target.any()
        for word in range(3):
            assert len(set(is_target[text.words == word])) == 1


def test_words_of_joined_texts_stay_apart() -> None:
    tokenizer = _pieces_tokenizer()
    assert _special_tokens_around(tokenizer) == ([2], [3])
    texts = _texts(tokenizer, ["it unguessable", "is it"])
    first, second = _blocks(tokenizer, texts, size=5)
    assert tokenizer.convert_ids_to_tokens(first.ids) == ["it", "un", "##guess", "##able", "[SEP]"]
    assert first.words.tolist() == [0, 1, 1, 1, -1]
    assert second.words.tolist() == [2, 3, -1]


@pytest.mark.parametrize("whole_word", [False, True])
def test_shares_are_those_of_bert_and_the_expected_number_is_right(whole_word: bool) -> None:
    words = np.array([-1, 0, 0, 1, 2, 2, 2, -1])
    ids = np.array([2, 10, 11, 12, 13, 14, 15, 3])
    draw = Masking(0.15, whole_word, 4, np.arange(100, 1000))
    chance = np.random.default_rng(0)
    drawn = [draw({"input_ids": ids, "words": words}, chance) for _ in range(20_000)]
    labels = np.stack([row["labels"] for row in drawn])
    shown = np.stack([row["input_ids"] for row in drawn])[labels != -100]
    assert (labels[:, [0, -1]] == -100).all()  # special tokens are never masked
    assert (labels != -100).any(axis=1).all()
    mean = (labels != -100).sum() / len(drawn)
    assert draw.expected_targets(words) == pytest.approx(mean, rel=0.02)
    shares = [np.mean(shown == 4), np.mean(shown >= 100), np.mean((shown >= 10) & (shown < 100))]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.01)


SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "embedding_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "pad_token_id": 0,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "vocab_size": 40}


@pytest.mark.parametrize(
    "config",
    [
        BertConfig(**SIZES),
        RobertaConfig(**SIZES),
        AlbertConfig(**SIZES),
        ElectraConfig(**SIZES),
        DebertaV2Config(**SIZES),
        DistilBertConfig(**DISTILBERT, dropout=0.0, attention_dropout=0.0),
    ],
    ids=lambda config: config.model_type,
)
def test_loss_and_gradients_are_those_of_all_logits(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language_loss, "_FEW_LOGITS", 0)  # in chunks, however small
    set_seed(0)
    model: Any = MODEL_FOR_MASKED_LM_MAPPING[type(config)](config).train()
    mapping = find_logit_map(model)
    assert mapping is not None
    batch = {"input_ids": torch.randint(4, 40, (2, 6)), "attention_mask": torch.ones(2, 6).long()}
    labels = torch.tensor([[-100, 7, -100, 9, -100, -100], [5, -100, -100, -100, 8, -100]])
    loss = LanguageLoss(model, mapping, smoothing=0.1, targets=own_labels)
    logits = model(**batch).logits.flatten(0, 1)
    expected = functional.cross_entropy(logits, labels.flatten(), label_smoothing=0.1)
    found, _ = loss(model, {**batch, "labels": labels}, torch.tensor(4))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = [torch.autograd.grad(one, weights, allow_unused=True) for one in (found, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
