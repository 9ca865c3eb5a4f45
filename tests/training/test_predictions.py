"""What the model says of each row, beside the number of the row that it is said of."""

import ast
import json
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import pytest
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, set_seed

from tests.training.tiny import carry_out, make_run, save_decoder, save_encoder
from trainer_core.run_directory import Result
from trainer_core.training import tasks

pytestmark = [
    pytest.mark.slow,
    # peft 0.21 asks models by a name that transformers 5.23 calls deprecated.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]

LONG = "old " * 60
FORMS = {"dpo": "pairs", "orpo": "pairs", "reward-model": "pairs"}
FIGURES = {
    "causal-lm": {"loss", "num_tokens", "token_accuracy"},
    "masked-lm": {"loss", "num_tokens", "token_accuracy"},
    "multiple-choice": {"choice", "text", "probability"},
    "kto": {"reward"},
    **{task: {"chosen_reward", "rejected_reward", "reward_margin"} for task in FORMS},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    encoder = save_encoder(folder / "encoder")
    masker = save_encoder(folder / "masker")
    tokenizer = AutoTokenizer.from_pretrained(masker)
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    tokenizer.save_pretrained(masker)
    set_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(
        vocab_size=len(tokenizer), intermediate_size=64, max_position_embeddings=64, **sizes
    )
    BertForMaskedLM(config).save_pretrained(masker)
    return {
        "masked-lm": masker,
        "multiple-choice": encoder,
        "decoder": save_decoder(folder / "decoder"),
    }


def _row(task: str, number: int, *, fits: bool = True) -> dict[str, Any]:
    """Return a row of a task, or one of which nothing is left to learn."""
    question = f"{number} is it" if fits else LONG
    match FORMS.get(task, task):
        case "pairs":
            return {"prompt": question, "chosen": " red", "rejected": " blue"}
        case "kto":
            return {"prompt": question, "completion": " red", "label": number % 2 == 0}
        case "causal-lm":
            return {"prompt": question, "completion": " red" * (number + 1)}
        case "multiple-choice":
            return {"question": "is it", "choices": ["red", "blue" if fits else LONG], "label": 0}
        case _:
            return {"text": "it is a red new old" if fits else "perhaps"}


@pytest.mark.parametrize("task", sorted(FIGURES))
def test_a_row_that_is_left_out_leaves_a_gap_in_the_numbers(
    models: dict[str, Path], tmp_path: Path, task: str
) -> None:
    directory = make_run(
        tmp_path / "run",
        model=models.get(task, models["decoder"]),
        rows=[_row(task, number) for number in range(12)],
        spec={
            "task": task,
            "max_length": 40,
            "data": {"eval": None},
            "training": {"epochs": 1, "batch_size": 8},
        },
        test=[_row(task, number, fits=number != 2) for number in range(5)],
    )
    outcome = carry_out(directory)
    assert outcome.result is Result.SUCCEEDED, outcome.error
    lines = (directory.model / "predictions.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines]
    assert [row.pop("row") for row in told] == [0, 1, 3, 4]
    assert all(set(row) == FIGURES[task] for row in told)
    if task == "causal-lm":  # a word and its space are one token, and the end another
        lengths = [row["num_tokens"] for row in told]
        assert [length - lengths[0] for length in lengths] == [
            number * (lengths[1] - lengths[0]) for number in (0, 1, 3, 4)
        ]


@pytest.mark.parametrize("name", sorted(module.name for module in iter_modules(tasks.__path__)))
def test_every_task_predicts(name: str) -> None:
    text = (Path(tasks.__path__[0]) / f"{name}.py").read_text(encoding="utf-8")
    nodes = list(ast.walk(ast.parse(text)))
    as_arguments = {node.arg for node in nodes if isinstance(node, ast.keyword)}
    as_keys = {node.value for node in nodes if isinstance(node, ast.Constant)}
    assert "predictions" in as_arguments | as_keys
