"""Opening base models, whole ones and such as somebody spoiled."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    ByT5Tokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    MPNetConfig,
    MPNetModel,
    T5Config,
    T5Model,
)

from tests.training.tiny import (
    carry_out,
    chat_tokenizer,
    colour_rows,
    events_of,
    make_run,
    save_encoder,
)
from trainer_core.errors import InvalidSpec, UnsafeModel, UnusableModel
from trainer_core.run_directory import Result, read_json, write_json
from trainer_core.spec import JobSpec, parse_spec
from trainer_core.training.limits import check_limits
from trainer_core.training.models.base_model import BaseModel, LoadedModel, load_model, open_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "encoder")


@pytest.fixture
def copy(encoder: Path, tmp_path: Path) -> Path:
    """A model of this test's own, to be spoiled."""
    return Path(shutil.copytree(encoder, tmp_path / "model"))


def _set(path: Path, **values: Any) -> None:
    write_json(path, {**read_json(path), **values})


def _load(base: BaseModel) -> LoadedModel:
    auto_class = AutoModelForSequenceClassification
    return load_model(base, auto_class, changes={}, seed=1, is_head_new=True)


def _spec(*, max_length: int = 16, **training: Any) -> JobSpec:
    given = {"learning_rate": 1e-3, "gradient_checkpointing": False, **training}
    values = {"task": "text-classification", "model": "model:tiny", "max_length": max_length}
    return parse_spec({**values, "data": {"train": "dataset:ds_0123456789ab"}, "training": given})


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_size": "x"},
        {"hidden_size": None},
        {"hidden_size": 33},
        {"num_attention_heads": 0},
        {"vocab_size": -3},
        {"vocab_size": 1},
        {"max_position_embeddings": "many"},
        {"num_hidden_layers": -1, "layer_types": 3},
        {"pad_token_id": {}},
        {"hidden_act": "nonsense"},
        {"id2label": ["a", "b"]},
        {"model_type": "nonsense"},
        {"model_type": None},
    ],
)
def test_a_configuration_that_makes_no_sense_is_the_models_fault(
    copy: Path, values: dict[str, Any]
) -> None:
    _set(copy / "config.json", **values)
    with pytest.raises(UnusableModel):
        _load(open_model(copy))


def test_another_configuration_file_can_not_slip_in(copy: Path) -> None:
    config = read_json(copy / "config.json")
    write_json(copy / "config.4.0.0.json", {**config, "auto_map": {"AutoModel": "x.Model"}})
    _set(copy / "config.json", configuration_files=["config.4.0.0.json"])
    with pytest.raises(UnsafeModel, match="/configuration_files"):
        open_model(copy)


def test_the_configuration_does_not_choose_the_attention(copy: Path) -> None:
    _set(copy / "config.json", attn_implementation="eager")
    assert open_model(copy).config._attn_implementation == "eager"
    assert _load(open_model(copy)).model.config._attn_implementation == "sdpa"


def test_a_model_without_its_vocabulary_is_refused(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    write_json(copy / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"})
    with pytest.raises(UnusableModel, match=r"knows no words.*vocab\.txt"):
        open_model(copy)


def test_a_tokenizer_that_needs_no_vocabulary_is_let_through(tmp_path: Path) -> None:
    config = T5Config(vocab_size=384, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    T5Model(config).save_pretrained(tmp_path)
    tokenizer: Any = ByT5Tokenizer
    tokenizer().save_pretrained(tmp_path)
    base = open_model(tmp_path)
    assert base.tokenizer.vocab_files_names == {}
    load_model(base, AutoModel, changes={}, seed=1, is_head_new=True)


def test_a_token_without_an_embedding_is_told(copy: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(copy)
    num_embeddings = read_json(copy / "config.json")["vocab_size"]
    tokenizer.add_tokens([AddedToken("newly"), AddedToken("added")])
    tokenizer.save_pretrained(copy)
    with pytest.raises(UnusableModel, match=f"'added'.*embeddings for {num_embeddings} ids"):
        _load(open_model(copy))


def test_a_full_memory_is_not_the_models_fault(copy: Path) -> None:
    # 8 PB of weights: the files are checked only after the model is made.
    _set(copy / "config.json", vocab_size=2**46)
    with pytest.raises(RuntimeError, match="allocate memory"):
        _load(open_model(copy))


def test_the_position_table_bounds_the_length(encoder: Path) -> None:
    base = open_model(encoder)
    assert (base.num_positions, base.tokenizer_limit, base.usual_length) == (64, 64, 64)
    assert check_limits(_spec(max_length=64), base) is None
    with pytest.raises(InvalidSpec, match="64 positions") as caught:
        check_limits(_spec(max_length=65), base)
    assert caught.value.param == "/max_length"


def test_the_tokenizers_limit_warns_and_does_not_refuse(copy: Path, tmp_path: Path) -> None:
    _set(copy / "tokenizer_config.json", model_max_length=32)
    base = open_model(copy)
    assert (base.num_positions, base.tokenizer_limit, base.usual_length) == (64, 32, 32)
    spec = {
        "task": "text-classification",
        "training": {"epochs": 1},
        "evaluation": {"baseline": False},  # so short a run may gain nothing, which is warned of
    }
    chosen, given = (
        make_run(tmp_path / name, model=copy, rows=colour_rows(42), spec={**spec, **parts})
        for name, parts in (("auto", {}), ("given", {"max_length": 64}))
    )
    for directory in (chosen, given):
        assert carry_out(directory).result is Result.SUCCEEDED
    assert read_json(chosen.resolved)["spec"]["max_length"] == 32
    assert events_of(chosen, "warning") == []
    (warning,) = [line.data for line in events_of(given, "warning")]
    assert warning["code"] == "max_length_large"
    assert "64 tokens are more than the 32" in warning["message"]


def test_a_tokenizers_large_limit_does_not_hide_the_position_table(copy: Path) -> None:
    _set(copy / "tokenizer_config.json", model_max_length=512)
    with pytest.raises(InvalidSpec, match="64 positions"):
        check_limits(_spec(max_length=128), open_model(copy))


def test_a_table_without_a_limit_of_the_tokenizer_still_bounds(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=320, n_positions=48, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    chat_tokenizer().save_pretrained(tmp_path)
    base = open_model(tmp_path)
    assert (base.num_positions, base.tokenizer_limit, base.usual_length) == (48, 128, 48)
    with pytest.raises(InvalidSpec, match="48 positions"):
        check_limits(_spec(max_length=49), base)


@pytest.fixture
def mpnet(copy: Path) -> Path:
    """A model that can't recompute its activations."""
    size = read_json(copy / "config.json")["vocab_size"]
    config = MPNetConfig(
        vocab_size=size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    MPNetModel(config).save_pretrained(copy)
    return copy


def test_gradient_checkpointing_is_refused_where_the_model_can_not_do_it(
    encoder: Path, mpnet: Path
) -> None:
    spec = _spec(gradient_checkpointing=True)
    assert check_limits(spec, open_model(encoder)) is None
    with pytest.raises(InvalidSpec, match="mpnet") as caught:
        check_limits(spec, open_model(mpnet))
    assert caught.value.param == "/training/gradient_checkpointing"


def test_gradient_checkpointing_left_to_us_is_off_where_the_model_can_not_do_it(
    mpnet: Path, tmp_path: Path
) -> None:
    spec = {"task": "text-classification", "training": {"epochs": 1}}
    directory = make_run(tmp_path / "run", model=mpnet, rows=colour_rows(42), spec=spec)
    assert carry_out(directory).result is Result.SUCCEEDED
    choices = {one["pointer"]: one for one in read_json(directory.resolved)["choices"]}
    chosen = choices["/training/gradient_checkpointing"]
    assert chosen["value"] is False
    assert not open_model(mpnet).can_recompute
    assert "fit" not in chosen["why"]


def test_a_polynomial_schedule_that_starts_at_its_end_is_refused(encoder: Path) -> None:
    base = open_model(encoder)
    assert check_limits(_spec(scheduler="polynomial", learning_rate=2e-7), base) is None
    assert check_limits(_spec(scheduler="linear", learning_rate=1e-8), base) is None
    with pytest.raises(InvalidSpec) as caught:
        check_limits(_spec(scheduler="polynomial", learning_rate=1e-7), base)
    assert caught.value.param == "/training/learning_rate"


def test_all_that_is_too_much_is_told_at_once(mpnet: Path) -> None:
    training = {"gradient_checkpointing": True, "scheduler": "polynomial", "learning_rate": 1e-8}
    with pytest.raises(InvalidSpec) as caught:
        check_limits(_spec(max_length=64, **training), open_model(mpnet))
    assert len(caught.value.problems) == 3  # one of the 64 positions is the padding's
