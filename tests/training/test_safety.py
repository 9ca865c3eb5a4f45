import json
import os
from pathlib import Path
from typing import Any

import pytest

from trainer_core.errors import UnsafeModel, UnusableModel
from trainer_core.training.process.safety import check_config, check_model_files


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that looks like a model; nothing of it is ever loaded."""
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 8)
    _write(tmp_path / "config.json", {"model_type": "bert", "architectures": ["BertModel"]})
    _write(tmp_path / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"})
    return tmp_path


def _write(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values))


def test_an_ordinary_model_is_let_through(model: Path) -> None:
    _write(
        model / "config.json",
        {
            "_model_name_or_path": "Some model 2",  # the title of a GGUF file
            "_name_or_path": "/home/someone/model",  # transformers 4 wrote this
            "_attn_implementation_autoset": True,
            "attn_implementation": "sdpa",
            "id2label": {"0": "/left", "1": "../right"},
            "model_type": "bert",
            "auto_map": None,
            "time_step_limit": [0.0, {"__float__": "Infinity"}],
        },
    )
    _write(
        model / "tokenizer_config.json",
        {
            "added_tokens_decoder": {"0": {"content": "/", "special": True}},
            "chat_template": "{{ '/' + messages[0]['content'] }}",
            "name_or_path": "/root/model",
            "special_tokens_map_file": "/root/.cache/special_tokens_map.json",
            "tokenizer_class": "BertTokenizer",
            "unk_token": "../",
            "vocab_file": None,
        },
    )
    check_model_files(model)


HOSTILE = [
    ("config.json", "auto_map", {"AutoModel": "modeling.Model"}),
    ("config.json", "_attn_implementation_internal", "someone/kernel"),
    ("config.json", "_attn_implementation", "someone/kernel"),
    ("config.json", "attn_implementation", {"text_config": "someone/kernel"}),
    ("config.json", "_experts_implementation_internal", "someone/kernel"),
    ("config.json", "_private", {"code": "x"}),
    ("config.json", "text_config", {"auto_map": {"AutoConfig": "configuration.Config"}}),
    ("config.json", "vision_config", {"deep": [{"_attn_implementation_internal": "x/y"}]}),
    ("config.json", "transformers_weights", "other.safetensors"),
    ("config.json", "configuration_files", ["config.4.0.0.json"]),
    ("config.json", "fusion_config", {"patch_embeddings": True}),
    ("config.json", "trust_remote_code", True),
    ("config.json", "tokenizer_class", "os; import x"),
    ("config.json", "backbone", "https://example.org/model"),
    ("generation_config.json", "custom_generate", "someone/generate"),
    ("tokenizer_config.json", "auto_map", {"AutoTokenizer": ["tokenization.Tokenizer", None]}),
    ("tokenizer_config.json", "vocab_file", "/etc/passwd"),
    ("tokenizer_config.json", "vocab_file", "~/.aws/credentials"),
    ("tokenizer_config.json", "merges_file", "../merges.txt"),
    ("tokenizer_config.json", "tokenizer_file", "sub/tokenizer.json"),
    ("tokenizer_config.json", "fast_tokenizer_files", ["tokenizer.json", "../tokenizer.4.json"]),
    ("tokenizer_config.json", "anything", "C:\\secrets.txt"),
    ("tokenizer_config.json", "anything", ["fine", "..\\..\\secrets"]),
    ("tokenizer_config.json", "init_inputs", ["/etc/passwd"]),
    ("tokenizer_config.json", "chat_template", {"../../escape": "x"}),
    ("tokenizer_config.json", "chat_template", [{"name": "a/b", "template": "x"}]),
    ("special_tokens_map.json", "vocab_file", "/etc/passwd"),
    ("adapter_config.json", "auto_mapping", {"parent_library": "os"}),
    ("adapter_config.json", "megatron_core", "os"),
    ("adapter_config.json", "tokenizer_kwargs", {"trust_remote_code": True}),
    ("adapter_config.json", "base_model_name_or_path", "/srv/other-model"),
]


@pytest.mark.parametrize(("file", "field", "value"), HOSTILE)
def test_a_hostile_field_is_refused_by_name(
    model: Path, file: str, field: str, value: object
) -> None:
    path = model / file
    values = json.loads(path.read_text()) if path.exists() else {}
    _write(path, {**values, field: value})
    with pytest.raises(UnsafeModel) as caught:
        check_model_files(model)
    assert file in caught.value.message
    assert f"/{field}" in (caught.value.param or "")


def test_a_configuration_is_checked_once_more_as_it_was_loaded() -> None:
    check_config({"model_type": "bert", "id2label": {0: "../left"}, "dtype": "float32"})
    with pytest.raises(UnsafeModel, match="/text_config/auto_map"):
        check_config({"text_config": {"auto_map": {"AutoModel": "modeling.Model"}}})


@pytest.mark.parametrize("name", ["chat_template.jinja", "sub/notes.txt", "sub/deep/whole"])
def test_a_link_out_of_the_model_is_refused_by_name(
    model: Path, tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    secret = tmp_path_factory.mktemp("elsewhere") / "secret"
    secret.write_text("a secret")
    (model / name).parent.mkdir(parents=True, exist_ok=True)
    (model / name).symlink_to(secret.parent if name.endswith("whole") else secret)
    with pytest.raises(UnsafeModel, match=f"{name} is a link") as caught:
        check_model_files(model)
    assert caught.value.detail == {"file": name}


def test_links_within_the_model_and_a_link_to_it_are_let_through(
    model: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (model / "latest.json").symlink_to("config.json")
    link = tmp_path_factory.mktemp("links") / "model"
    link.symlink_to(model)
    check_model_files(link)


def test_links_in_a_circle_are_told(model: Path) -> None:
    (model / "a").symlink_to("b")
    (model / "b").symlink_to("a")
    with pytest.raises(UnusableModel, match="leads nowhere"):
        check_model_files(model)


def test_what_is_no_file_is_refused_unopened(model: Path) -> None:
    os.mkfifo(model / "chat_template.jinja")
    with pytest.raises(UnsafeModel, match="neither a file nor a directory"):
        check_model_files(model)


@pytest.fixture
def cached(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as the Hub's own client keeps it: links to the repository's blobs."""
    repository = tmp_path_factory.mktemp("hub") / "models--someone--model"
    snapshot = repository / "snapshots" / "0123abc"
    for folder in (snapshot, repository / "blobs"):
        folder.mkdir(parents=True)
    for path in model.iterdir():
        path.rename(repository / "blobs" / path.name)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    return snapshot


def test_a_hub_cache_may_link_to_the_blobs_of_its_repository(cached: Path) -> None:
    check_model_files(cached)


def test_a_hub_cache_may_not_link_to_another_repository(cached: Path) -> None:
    other = cached.parents[2] / "models--other--model" / "blobs"
    other.mkdir(parents=True)
    (other / "vocab.txt").write_text("theirs")
    (cached / "vocab.txt").symlink_to(other / "vocab.txt")
    with pytest.raises(UnsafeModel, match=r"vocab\.txt is a link"):
        check_model_files(cached)


def test_pickled_weights_are_refused_unread(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(UnsafeModel, match=r"pytorch_model\.bin"):
        check_model_files(model)


def test_pickles_beside_safetensors_do_not_matter(model: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(b"never opened")
    check_model_files(model)


def test_a_shard_outside_the_model_is_refused(model: Path) -> None:
    (model / "model.safetensors").unlink()
    _write(model / "model.safetensors.index.json", {"weight_map": {"a": "../a.safetensors"}})
    with pytest.raises(UnsafeModel, match="weight_map"):
        check_model_files(model)


def test_a_missing_shard_is_named(model: Path) -> None:
    (model / "model.safetensors").unlink()
    _write(model / "model.safetensors.index.json", {"weight_map": {"a": "a-1.safetensors"}})
    with pytest.raises(UnusableModel, match=r"a-1\.safetensors"):
        check_model_files(model)


def test_a_distributed_checkpoint_is_refused(model: Path) -> None:
    (model / ".metadata").write_bytes(b"a pickle")
    with pytest.raises(UnsafeModel, match="pickle"):
        check_model_files(model)


def test_an_adapter_is_not_a_base_model(model: Path) -> None:
    _write(model / "adapter_config.json", {"peft_type": "LORA", "megatron_core": "megatron.core"})
    with pytest.raises(UnusableModel, match="adapter"):
        check_model_files(model)


def test_what_is_missing_is_told_with_what_is_there(model: Path, tmp_path: Path) -> None:
    (model / "config.json").unlink()
    with pytest.raises(UnusableModel, match=r"no config\.json; it has: model\.safetensors"):
        check_model_files(model)
    with pytest.raises(UnusableModel, match="no model directory"):
        check_model_files(tmp_path / "nowhere")


def test_json_that_is_none_is_told_with_its_file(model: Path) -> None:
    (model / "tokenizer_config.json").write_text("[" * 100_000)
    with pytest.raises(UnusableModel, match=r"tokenizer_config\.json is not JSON"):
        check_model_files(model)
