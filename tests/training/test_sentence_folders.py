"""What is read of a folder of sentence-transformers, whose files are a stranger's."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, LlamaConfig

from trainer_core.errors import UnusableModel
from trainer_core.training.models.sentence_folders import read_form

pytestmark = pytest.mark.slow

CONFIG = BertConfig(architectures=["BertModel"])


def _module(number: int, name: str, *, path: str) -> dict[str, Any]:
    kind = f"sentence_transformers.models.{name}"
    return {"idx": number, "name": str(number), "path": path, "type": kind}


TRANSFORMER = _module(0, "Transformer", path="")
POOLING = _module(1, "Pooling", path="1_Pooling")
NORMALIZE = _module(2, "Normalize", path="2_Normalize")


def _write(path: Path, values: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(values if isinstance(values, str) else json.dumps(values))


def _folder(folder: Path, *, pooling: Any, modules: Any = (TRANSFORMER, POOLING)) -> Path:
    _write(folder / "modules.json", modules)
    _write(folder / "1_Pooling" / "config.json", pooling)
    return folder


@pytest.mark.parametrize(
    ("fields", "pooling"),
    [
        ({"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"embedding_dimension": 8, "pooling_mode": "cls", "include_prompt": True}, "cls"),
        ({"pooling_mode": ["lasttoken"]}, "last"),
        ({}, "mean"),
        ({"pooling_mode": "mean", "auto_map": {"x": "evil.py"}, "path": "/etc"}, "mean"),
    ],
)
def test_pooling_is_read_in_the_old_form_and_the_new(
    tmp_path: Path, fields: dict[str, Any], pooling: str
) -> None:
    form = read_form(_folder(tmp_path, pooling=fields), CONFIG)
    assert (form.pooling, form.is_normalized, form.is_given) == (pooling, False, True)


def test_normalization_length_and_prompts_are_read(tmp_path: Path) -> None:
    _folder(tmp_path, pooling={}, modules=[TRANSFORMER, POOLING, NORMALIZE])
    _write(tmp_path / "sentence_bert_config.json", {"max_seq_length": 256, "do_lower_case": False})
    prompts = {"query": "query: ", "document": "", "other": None}
    _write(tmp_path / "config_sentence_transformers.json", {"prompts": prompts})
    form = read_form(tmp_path, CONFIG)
    assert form.is_normalized
    assert form.max_length == 256
    assert form.prompts == {"query": "query: "}


def test_a_model_that_is_not_for_sentences_has_the_usual(tmp_path: Path) -> None:
    assert read_form(tmp_path, CONFIG).pooling == "mean"
    decoder = LlamaConfig(architectures=["LlamaForCausalLM"])
    form = read_form(tmp_path, decoder)
    assert (form.pooling, form.is_normalized, form.is_given) == ("last", True, False)


HOSTILE: list[tuple[Any, Any, str]] = [
    ({"pooling_mode": "max"}, None, "pools by max"),
    (
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
        None,
        "pools by cls and mean",
    ),
    ({"pooling_mode": "mean", "include_prompt": False}, None, "leaves its prompt out"),
    ({"pooling_mode_cls_token": {"a": 1}}, None, "1_Pooling/config.json can't be used"),
    ({"pooling_mode": 7}, None, "1_Pooling/config.json can't be used"),
    ("[" * 100_000, None, "1_Pooling/config.json can't be used"),
    ("{", None, "1_Pooling/config.json can't be used"),
    ({}, [TRANSFORMER, {**POOLING, "path": "../../1_Pooling"}], "one folder N_Pooling"),
    ({}, [TRANSFORMER, {**POOLING, "path": "/etc/1_Pooling"}], "one folder N_Pooling"),
    ({}, [TRANSFORMER, POOLING, POOLING], "one folder N_Pooling"),
    ({}, [TRANSFORMER], "one folder N_Pooling"),
    ({}, [TRANSFORMER, {**POOLING, "path": "3_Pooling"}], "no 3_Pooling/config.json"),
    ({}, [TRANSFORMER, POOLING, {**POOLING, "type": "evil.code.Run"}], "has the part 'Run'"),
    ({}, [TRANSFORMER, POOLING, {**POOLING, "type": "x.models.Dense"}], "has the part 'Dense'"),
    ({}, {"a": 1}, "modules.json can't be used"),
    ({}, [{"type": 3}], "modules.json can't be used"),
]


@pytest.mark.parametrize(("pooling", "modules", "words"), HOSTILE)
def test_what_is_not_understood_is_refused(
    tmp_path: Path, pooling: Any, modules: Any, words: str
) -> None:
    folder = _folder(tmp_path, pooling=pooling, modules=modules or [TRANSFORMER, POOLING])
    with pytest.raises(UnusableModel, match=words):
        read_form(folder, CONFIG)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("sentence_bert_config.json", {"max_seq_length": -1}),
        ("sentence_bert_config.json", {"max_seq_length": "long"}),
        ("config_sentence_transformers.json", {"prompts": ["query: "]}),
        ("config_sentence_transformers.json", {"prompts": {"query": 7}}),
    ],
)
def test_settings_of_another_type_are_refused(
    tmp_path: Path, name: str, values: dict[str, Any]
) -> None:
    _write(_folder(tmp_path, pooling={}) / name, values)
    with pytest.raises(UnusableModel, match=name):
        read_form(tmp_path, CONFIG)
