import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertConfig,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    MBart50Tokenizer,
    MBartConfig,
    MBartForConditionalGeneration,
    MBartTokenizer,
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)

from tests.training.tiny import (
    BERT_SIZES,
    WRITER_SIZES,
    carry_out,
    colour_rows,
    events_of,
    make_run,
    save_encoder,
    save_writer,
)
from trainer_core.run_directory import Result, RunDirectory, read_json
from trainer_core.training.metrics.text_metrics import rouge_scores, translation_scores

pytestmark = [
    pytest.mark.slow,
    # peft 0.21 asks models by a name that transformers 5.23 calls deprecated.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]

ENGLISH = ["red", "green", "blue", "round", "square", "small", "large", "warm", "cold", "old"]
FRENCH = ["rouge", "vert", "bleu", "rond", "carre", "petit", "grand", "chaud", "froid", "vieux"]
FAST = {"learning_rate": 1e-2, "batch_size": 16, "weight_decay": 0.0}
BRIEF = {"training": {**FAST, "epochs": 1}, "evaluation": {"strategy": "no"}}


def _rows(count: int, *, seed: int = 1) -> list[dict[str, str]]:
    """English words to French ones, in reverse order."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    picked = [chance.choices(range(len(ENGLISH)), k=chance.randint(1, 4)) for _ in range(count)]
    return [
        {
            "source": " ".join(ENGLISH[word] for word in words),
            "target": " ".join(FRENCH[word] for word in reversed(words)),
        }
        for words in picked
    ]


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_writer(tmp_path_factory.mktemp("models") / "bart", words=ENGLISH + FRENCH)


@pytest.fixture(scope="module")
def translated(writer: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    spec = {"task": "translation", "training": {**FAST, "epochs": 9}}
    folder = tmp_path_factory.mktemp("translated") / "run"
    directory = make_run(
        folder, model=writer, rows=_rows(400), spec=spec, eval=_rows(60, seed=2), test=_rows(20)
    )
    assert carry_out(directory).result is Result.SUCCEEDED
    return directory


def _written(folder: Path, sources: Sequence[str], **settings: Any) -> list[str]:
    """Return what a saved model writes, loaded plainly, one text at a time."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(folder)
    texts = []
    for source in sources:
        ids = model.generate(**tokenizer(source, return_tensors="pt"), **settings)[0]
        texts.append(tokenizer.decode(ids, skip_special_tokens=True))
    return texts


def test_words_are_translated_and_turned_round(translated: RunDirectory) -> None:
    metrics = read_json(translated.outcome)["metrics"]
    assert metrics["exact_match"] > 0.9
    assert metrics["bleu"] > 95
    assert metrics["chrf"] > 95
    assert metrics["test_exact_match"] > 0.9


def test_the_figures_are_those_of_the_model_as_it_is_loaded(translated: RunDirectory) -> None:
    held_out = _rows(60, seed=2)
    texts = _written(translated.model, [row["source"] for row in held_out])
    targets = [row["target"] for row in held_out]
    expected = translation_scores(texts, targets, script="latin", language=None)
    metrics = read_json(translated.outcome)["metrics"]
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)


def test_the_loss_is_that_of_transformers_over_all_target_tokens(translated: RunDirectory) -> None:
    tokenizer = AutoTokenizer.from_pretrained(translated.model)
    model = AutoModelForSeq2SeqLM.from_pretrained(translated.model)
    total, count = 0.0, 0
    for row in _rows(60, seed=2):
        labels = tokenizer(row["target"], return_tensors="pt").input_ids
        inputs = tokenizer(row["source"], return_tensors="pt").input_ids
        with torch.no_grad():
            total += float(model(input_ids=inputs, labels=labels).loss) * labels.numel()
        count += labels.numel()
    metrics = read_json(translated.outcome)["metrics"]
    assert metrics["loss"] == pytest.approx(total / count, rel=1e-3)


def test_the_lines_of_the_card_run_and_translate(
    translated: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    card = (translated.model / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    code = code.replace("path/to/this/folder", str(translated.model))
    exec(code.replace("A text to read", "small red"), {})  # noqa: S102 - the card's own
    assert capsys.readouterr().out == "rouge petit\n"


def test_an_adapter_learns_another_order(translated: RunDirectory, tmp_path: Path) -> None:
    rows = _rows(300)
    for row in rows:
        row["target"] = " ".join(reversed(row["target"].split()))
    spec = {"task": "translation", "training": {**FAST, "epochs": 5}, "adapter": {"r": 8}}
    directory = make_run(tmp_path / "run", model=translated.model, rows=rows, spec=spec)
    assert carry_out(directory).metrics["exact_match"] > 0.8
    # Merged, and loaded plainly, it writes the same.
    assert _written(directory.model, ["small red old"]) == ["petit rouge vieux"]


@pytest.fixture(scope="module")
def summarizer(writer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5, which knows positions only as distances and begins with the padding token."""
    folder = tmp_path_factory.mktemp("models") / "t5"
    tokenizer = AutoTokenizer.from_pretrained(writer)
    set_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=1,
        num_heads=2,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=0,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_t5_learns_to_tell_the_colour(summarizer: Path, tmp_path: Path) -> None:
    rows = [{"long": row["text"], "short": row["label"]} for row in colour_rows(300)]
    spec = {
        "task": "summarization",
        "source_prefix": "old: ",
        "data": {"columns": {"source": "long", "target": "short"}},
        "training": {**FAST, "epochs": 8},
        "generation": {"max_new_tokens": 4, "num_beams": 2, "length_penalty": 0.5},
    }
    directory = make_run(
        tmp_path / "run", model=summarizer, rows=rows[:250], spec=spec, eval=rows[250:]
    )
    metrics = carry_out(directory).metrics
    assert metrics["rouge_l"] > 0.9
    settings = read_json(directory.model / "generation_config.json")
    beams = {"max_new_tokens": 4, "num_beams": 2, "length_penalty": 0.5}
    assert settings.items() >= beams.items()
    texts = _written(directory.model, [f"old: {row['long']}" for row in rows[250:]])
    expected = rouge_scores(texts, [row["short"] for row in rows[250:]], script="latin")
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert "'old: A text to read'" in (directory.model / "README.md").read_text()


def test_settings_that_were_made_for_other_texts_do_not_carry_over(tmp_path: Path) -> None:
    model = save_writer(tmp_path / "model", words=ENGLISH + FRENCH)
    path = model / "generation_config.json"
    path.write_text('{"min_length": 12, "num_beams": 4, "length_penalty": 2.0, "eos_token_id": 2}')
    spec = {"task": "translation", **BRIEF}
    directory = make_run(tmp_path / "run", model=model, rows=_rows(40), spec=spec)
    assert carry_out(directory).result is Result.SUCCEEDED
    settings = read_json(directory.model / "generation_config.json")
    assert not settings.keys() & {"min_length", "num_beams", "length_penalty"}


def _save_pair(folder: Path, encoder: Path, *, num_decoder_words: int | None = None) -> Path:
    """Save two BERTs as encoder and decoder, as they come from `from_encoder_decoder_configs`."""
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    configs = [
        BertConfig(
            vocab_size=size,
            **{**BERT_SIZES, "num_hidden_layers": 1},
        )
        for size in (len(tokenizer), num_decoder_words or len(tokenizer))
    ]
    set_seed(0)
    config = EncoderDecoderConfig.from_encoder_decoder_configs(*configs)
    EncoderDecoderModel(config=config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "encoder")


def _said(count: int) -> list[dict[str, str]]:
    words = ["red", "green", "blue", "round", "small"]
    return [{"source": f"it is {words[n % 5]}", "target": words[n % 5]} for n in range(count)]


def test_two_encoders_become_one_that_writes(encoder: Path, tmp_path: Path) -> None:
    model = _save_pair(tmp_path / "pair", encoder)
    spec = {"task": "summarization", "training": {**FAST, "epochs": 10}}
    directory = make_run(tmp_path / "run", model=model, rows=_said(200), spec=spec)
    outcome = carry_out(directory)
    assert outcome.metrics["rouge_1"] > 0.9
    settings = read_json(directory.model / "generation_config.json")
    assert (settings["decoder_start_token_id"], settings["eos_token_id"]) == (2, 3)  # [CLS], [SEP]
    assert _written(directory.model, ["it is green", "it is round"]) == ["green", "round"]


def test_two_vocabularies_are_refused(encoder: Path, tmp_path: Path) -> None:
    model = _save_pair(tmp_path / "pair", encoder, num_decoder_words=40)
    spec = {"task": "summarization", **BRIEF}
    error = carry_out(make_run(tmp_path / "run", model=model, rows=_said(40), spec=spec)).error
    assert error is not None
    assert error.code == "unusable_model"
    assert "one tokenizer" in error.message


def _save_multilingual(folder: Path, make: Any) -> Path:
    """Save an mBART whose tokenizer has a token for each language."""
    specials = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    words = [(f"▁{word}", -2.0) for word in ENGLISH + FRENCH]
    codes = [("en_XX", 0.0), ("fr_XX", 0.0), ("<mask>", 0.0)]
    tokenizer = make(vocab=[*specials, *words, *codes], model_max_length=32)
    set_seed(0)
    config = MBartConfig(
        vocab_size=len(tokenizer),
        **WRITER_SIZES,
        decoder_start_token_id=2,
    )
    MBartForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (MBart50Tokenizer, "forced_bos_token_id"),  # a target begins with its language
        (MBartTokenizer, "decoder_start_token_id"),  # the decoder is given it
    ],
)
def test_a_model_of_several_languages_writes_in_the_one_asked_for(
    make: Any, name: str, tmp_path: Path
) -> None:
    model = _save_multilingual(tmp_path / "model", make)
    spec = {
        "task": "translation",
        "source_language": "en_XX",
        "target_language": "fr_XX",
        "training": {**FAST, "epochs": 1},
    }
    directory = make_run(tmp_path / "run", model=model, rows=_rows(40), spec=spec)
    assert carry_out(directory).result is Result.SUCCEEDED
    tokenizer: Any = AutoTokenizer.from_pretrained(directory.model)
    french = tokenizer.convert_tokens_to_ids("fr_XX")
    assert read_json(directory.model / "generation_config.json")[name] == french
    assert (tokenizer.src_lang, tokenizer.tgt_lang) == ("en_XX", "fr_XX")
    trained: Any = AutoModelForSeq2SeqLM.from_pretrained(directory.model)
    written = trained.generate(**tokenizer("red", return_tensors="pt"))[0].tolist()
    assert french in written[:2]


def test_languages_that_are_not_known_are_told_with_those_that_are(tmp_path: Path) -> None:
    model = _save_multilingual(tmp_path / "model", MBart50Tokenizer)
    spec = {"task": "translation", "source_language": "klingon", **BRIEF}
    error = carry_out(make_run(tmp_path / "run", model=model, rows=_rows(40), spec=spec)).error
    assert error is not None
    problems = {problem["pointer"]: problem for problem in error.detail["errors"]}
    assert "no language 'klingon'" in problems["/source_language"]["message"]
    assert "fr_XX" in problems["/source_language"]["hint"]
    assert "is required" in problems["/target_language"]["message"]


def test_a_language_for_a_model_without_languages_is_refused(writer: Path, tmp_path: Path) -> None:
    spec = {"task": "translation", "target_language": "fr_XX", **BRIEF}
    error = carry_out(make_run(tmp_path / "run", model=writer, rows=_rows(40), spec=spec)).error
    assert error is not None
    assert (error.code, error.param) == ("invalid_spec", "/target_language")


def test_targets_longer_than_the_model_are_refused(writer: Path, tmp_path: Path) -> None:
    spec = {"task": "translation", "max_target_length": 40, **BRIEF}
    error = carry_out(make_run(tmp_path / "run", model=writer, rows=_rows(40), spec=spec)).error
    assert error is not None
    assert error.code == "invalid_spec"
    assert "32 positions" in error.message


def test_targets_that_are_cut_are_counted_and_compared_whole(writer: Path, tmp_path: Path) -> None:
    rows = [*_rows(40), {"source": "red", "target": "rouge " * 20}]
    spec = {"task": "translation", "max_target_length": 8, "data": {"eval": None}, **BRIEF}
    directory = make_run(tmp_path / "run", model=writer, rows=rows, spec=spec)
    assert carry_out(directory).result is Result.SUCCEEDED
    told = {line.data["code"]: line.data["message"] for line in events_of(directory, "warning")}
    assert "1 of 41 train targets have more than 8 tokens" in told["targets_truncated"]
