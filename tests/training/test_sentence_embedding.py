import json
import random
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import (
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
    TripletEvaluator,
)
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    CoSENTLoss,
    CosineSimilarityLoss,
    MultipleNegativesRankingLoss,
    TripletDistanceMetric,
    TripletLoss,
)
from transformers import AutoModel, AutoTokenizer

from tests.training.tiny import (
    COLOURS,
    WORDS,
    carry_out,
    events_of,
    make_run,
    save_decoder,
    save_encoder,
    stop_after,
)
from trainer_core.run_directory import (
    Result,
    RunDirectory,
    file_sha256,
    read_json,
    verified_manifest,
    write_json,
)
from trainer_core.spec import parse_spec
from trainer_core.training import building
from trainer_core.training.models.sentence_folders import pooling_module
from trainer_core.training.recipes.embedding import Embedder, EmbeddingLoss
from trainer_core.training.tasks.sentence_embedding import TextsCollator, make_loss

pytestmark = [
    pytest.mark.slow,
    # peft 0.21 asks models by a name that transformers 5.23 calls deprecated.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]

FAST = {"learning_rate": 3e-3, "batch_size": 16, "weight_decay": 0.0}
SGD = {**FAST, "learning_rate": 0.1, "epochs": 1, "optimizer": "sgd"}
TOPICS = [(a, b) for a in COLOURS for b in ("round", "square", "small", "large")]
NOISE = ["warm", "cold", "old", "new", "a", "is", "it"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "encoder", dropout=0.0)


def text_of(topic: tuple[str, str], chance: random.Random, *, most: int = 5) -> str:
    words = [*topic, *chance.choices(NOISE, k=chance.randint(1, most))]
    chance.shuffle(words)
    return " ".join(words)


def triplets(count: int, *, seed: int = 1, most: int = 5) -> list[dict[str, str]]:
    """Return texts of two words that count among others that do not."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    rows = []
    for _ in range(count):
        topic, other = chance.sample(TOPICS, 2)
        texts = [text_of(one, chance, most=most) for one in (topic, topic, other)]
        rows.append(dict(zip(("anchor", "positive", "negative"), texts, strict=True)))
    return rows


def pairs(count: int, *, seed: int = 1) -> list[dict[str, str]]:
    rows = triplets(count, seed=seed)
    return [{name: row[name] for name in ("anchor", "positive")} for row in rows]


def scored(count: int, *, seed: int = 1) -> list[dict[str, Any]]:
    """Return pairs whose score is the number of words that count and that both have, 0 to 2."""
    chance = random.Random(seed)  # noqa: S311
    rows = []
    for _ in range(count):
        one, two = chance.choice(TOPICS), chance.choice(TOPICS)
        rows.append(
            {
                "sentence1": text_of(one, chance),
                "sentence2": text_of(two, chance),
                "score": len(set(one) & set(two)),
            }
        )
    return rows


def _spec(**parts: Any) -> dict[str, Any]:
    return {"task": "sentence-embedding", "training": {**FAST, "epochs": 6}, **parts}


def _predictions(directory: RunDirectory) -> list[Any]:
    text = (directory.model / "predictions.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def learnt(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Return a finished run on pairs of which a test split of its own is measured."""
    folder = tmp_path_factory.mktemp("runs") / "pairs"
    spec = _spec(query_prompt="a ", max_length=32)
    test = [*pairs(30, seed=9), *pairs(8, seed=9)]  # some rows twice
    directory = make_run(folder, model=encoder, rows=pairs(240), spec=spec, test=test)
    assert carry_out(directory).result is Result.SUCCEEDED
    return directory


def test_pairs_are_learnt_and_measured_as_sentence_transformers_does(
    learnt: RunDirectory, encoder: Path
) -> None:
    outcome = learnt.read_outcome()
    assert outcome is not None
    metrics = outcome.metrics
    assert metrics["recall_at_5"] > 0.8
    model = SentenceTransformer(str(learnt.model), device="cpu")
    rows = pairs(30, seed=9)
    texts = list(dict.fromkeys(row["positive"] for row in rows))
    numbers = {text: f"{number:03}" for number, text in enumerate(texts)}
    relevant: dict[str, set[str]] = {}
    for row in rows:
        relevant.setdefault(row["anchor"], set()).add(numbers[row["positive"]])
    evaluator = InformationRetrievalEvaluator(
        {anchor: anchor for anchor in relevant},
        {number: text for text, number in numbers.items()},
        relevant,
        precision_recall_at_k=[1, 5, 10],
        mrr_at_k=[len(texts)],
        query_prompt="a ",
        name="it",
        write_csv=False,
    )
    theirs = evaluator(model)
    for k in (1, 5, 10):
        assert metrics[f"test_recall_at_{k}"] == pytest.approx(theirs[f"it_cosine_recall@{k}"])
    assert metrics["test_mrr"] == pytest.approx(theirs[f"it_cosine_mrr@{len(texts)}"])
    untrained = evaluator(SentenceTransformer(str(encoder), device="cpu"))
    assert metrics["test_mrr"] > untrained[f"it_cosine_mrr@{len(texts)}"] + 0.1


def test_the_folder_loads_everywhere_and_gives_the_same_vectors(learnt: RunDirectory) -> None:
    manifest = verified_manifest(learnt.model)
    assert manifest is not None
    assert {file.path for file in manifest} == {
        "1_Pooling/config.json",
        "2_Normalize/config.json",
        "README.md",
        "config.json",
        "config_sentence_transformers.json",
        "model.safetensors",
        "evaluation.json",
        "modules.json",
        "predictions.jsonl",
        "run.json",
        "sentence_bert_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    model = SentenceTransformer(str(learnt.model), device="cpu")
    assert model.max_seq_length == 32
    assert model.prompts["query"] == "a "
    texts = ["red round it", "a small blue one is cold", "old " * 60]
    theirs = model.encode(texts, convert_to_tensor=True)

    tokenizer = AutoTokenizer.from_pretrained(learnt.model)
    body = AutoModel.from_pretrained(learnt.model).eval()
    inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        tokens = body(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    mean = (tokens * mask).sum(1) / mask.sum(1)
    by_hand = torch.nn.functional.normalize(mean)
    torch.testing.assert_close(theirs, by_hand, rtol=0, atol=1e-5)

    rows = [
        {
            "input_ids": np.array(ids),
            "token_type_ids": np.zeros(len(ids)),
            "lengths": np.array([len(ids)]),
            "labels": np.zeros(1),
        }
        for ids in tokenizer(texts, truncation=True)["input_ids"]
    ]
    batch = TextsCollator(tokenizer.pad_token_id, has_token_types=True)(rows)
    pool = pooling_module("mean", num_dimensions=32)
    with torch.no_grad():
        ours = Embedder(pool=pool, is_normalized=True, num_texts=2)(body, batch)[0]
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


def test_the_usage_text_runs(learnt: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    card = (learnt.model / "README.md").read_text()
    code = card.partition("```python\n")[2].partition("```")[0]
    exec(code.replace("path/to/this/folder", str(learnt.model)), {})  # noqa: S102
    assert "tensor([[" in capsys.readouterr().out


def test_no_padding_is_told_of_steps_that_the_task_cuts_itself(learnt: RunDirectory) -> None:
    (told,) = [e for e in events_of(learnt, "log") if "num_tokens" in e.data["fields"]]
    assert told.data["fields"]["num_rows"] > 0
    assert "padding" not in told.data["message"]


def test_a_job_on_top_keeps_pooling_normalization_and_prompts(
    encoder: Path, tmp_path: Path
) -> None:
    training = {**FAST, "epochs": 1}
    spec = _spec(pooling="cls", normalize=False, document_prompt="is ", training=training)
    first = make_run(tmp_path / "first", model=encoder, rows=pairs(40), spec=spec)
    assert carry_out(first).result is Result.SUCCEEDED
    assert not (first.model / "2_Normalize").exists()
    spec = _spec(training=training)
    second = make_run(tmp_path / "second", model=first.model, rows=pairs(40), spec=spec)
    assert carry_out(second).result is Result.SUCCEEDED
    resolved = read_json(second.resolved)
    assert (resolved["spec"]["pooling"], resolved["spec"]["normalize"]) == ("cls", False)
    whys = {choice["pointer"]: choice["why"] for choice in resolved["choices"]}
    assert whys["/pooling"] == "the base model's own"
    model = SentenceTransformer(str(second.model), device="cpu")
    assert model[1].pooling_mode == "cls"
    assert len(model) == 2
    assert model.prompts["document"] == "is "


def test_triplets_are_learnt(encoder: Path, tmp_path: Path) -> None:
    spec = _spec(loss="triplet", margin=0.4)
    test = triplets(40, seed=2)
    directory = make_run(tmp_path / "run", model=encoder, rows=triplets(240), spec=spec, test=test)
    metrics = carry_out(directory).metrics
    assert metrics["test_triplet_accuracy"] > 0.9
    model = SentenceTransformer(str(directory.model), device="cpu")
    columns = ([row[name] for row in test] for name in ("anchor", "positive", "negative"))
    theirs = TripletEvaluator(*columns, write_csv=False)(model)
    assert metrics["test_triplet_accuracy"] == pytest.approx(theirs["cosine_accuracy"])
    found = _predictions(directory)
    assert len(found) == 40
    nearer = [row["similarity"] > row["negative_similarity"] for row in found]
    assert np.mean(nearer) == metrics["test_triplet_accuracy"]
    assert np.mean([row["rank"] == 1 for row in found]) == metrics["test_recall_at_1"]


@pytest.mark.parametrize("loss", ["cosent", "cosine"])
def test_scores_are_learnt_and_measured_as_sentence_transformers_does(
    encoder: Path, tmp_path: Path, loss: str
) -> None:
    top = 2 if loss == "cosine" else 1
    rows, test = (
        [{**row, "score": row["score"] / top} for row in scored(count, seed=seed)]
        for count, seed in ((320, 1), (60, 2))
    )
    spec = _spec(loss=loss, training={**FAST, "epochs": 10})
    directory = make_run(tmp_path / "run", model=encoder, rows=rows, spec=spec, test=test)
    metrics = carry_out(directory).metrics
    assert metrics["test_spearman"] > 0.7
    found = _predictions(directory)
    assert found[0].keys() == {"row", "similarity"}
    model = SentenceTransformer(str(directory.model), device="cpu")
    columns = ([row[name] for row in test] for name in ("sentence1", "sentence2", "score"))
    theirs = EmbeddingSimilarityEvaluator(*columns, write_csv=False)(model)
    assert metrics["test_spearman"] == pytest.approx(theirs["spearman_cosine"], abs=1e-4)
    assert metrics["test_pearson"] == pytest.approx(theirs["pearson_cosine"], abs=1e-4)


@dataclass
class _Stored:
    """A body that gives stored vectors: the ids are their numbers."""

    vectors: torch.Tensor  # (N, D)
    last_hidden_state: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, **_: Any) -> "_Stored":
        self.last_hidden_state = self.vectors[input_ids]
        return self


THEIR_LOSSES: dict[str, tuple[dict[str, Any], Any]] = {
    "in-batch": ({}, MultipleNegativesRankingLoss(None)),
    "in-batch, symmetric": (
        {"loss": "in-batch", "symmetric": True, "scale": 30.0},
        MultipleNegativesRankingLoss(
            None,
            scale=30.0,
            directions=("query_to_doc", "doc_to_query"),
            partition_mode="per_direction",
        ),
    ),
    "triplet": (
        {"loss": "triplet", "margin": 0.4},
        TripletLoss(None, distance_metric=TripletDistanceMetric.COSINE, triplet_margin=0.4),
    ),
    "cosent": ({"loss": "cosent"}, CoSENTLoss(None)),
    "cosine": ({"loss": "cosine"}, CosineSimilarityLoss(None)),
}


@pytest.mark.parametrize("name", THEIR_LOSSES)
def test_the_loss_is_that_of_sentence_transformers(name: str) -> None:
    settings, theirs = THEIR_LOSSES[name]
    is_scored = settings.get("loss") in ("cosent", "cosine")
    roles = ("text", "text_pair", "score") if is_scored else ("anchor", "positive", "negative")
    data = {"train": "dataset:ds_0123456789ab", "columns": {role: role for role in roles}}
    spec = parse_spec({"task": "sentence-embedding", "model": "model:m", "data": data, **settings})
    chance = torch.Generator().manual_seed(3)
    num_texts = 2 if is_scored else 3
    vectors = torch.randn(num_texts, 8, 5, generator=chance)
    scores = torch.rand(8, generator=chance)
    batch = {
        "input_ids": torch.arange(num_texts * 8)[:, None],
        "attention_mask": torch.ones(num_texts * 8, 1, dtype=torch.int64),
        "labels": scores,
    }
    pool = pooling_module("mean", num_dimensions=5)
    embed = Embedder(pool=pool, is_normalized=False, num_texts=3)
    loss, _ = EmbeddingLoss(embed, make_loss(spec))(
        _Stored(vectors.flatten(0, 1)), batch, torch.tensor(16)
    )
    expected = theirs.compute_loss_from_embeddings(list(vectors), scores)
    torch.testing.assert_close(loss, expected / 2)  # a half of the step's 16 rows


def test_in_batch_and_triplet_losses_are_those_of_their_papers() -> None:
    vectors = torch.nn.functional.normalize(
        torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(1)), dim=-1
    )
    anchors, positives, negatives = vectors
    data = {"train": "dataset:ds_0123456789ab", "columns": {"negative": "negative"}}
    spec = parse_spec({"task": "sentence-embedding", "model": "model:m", "data": data})
    logits = 20 * anchors @ torch.cat([positives, negatives]).T
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(6))
    torch.testing.assert_close(make_loss(spec)(list(vectors), torch.zeros(6)), expected)

    spec = spec.model_copy(update={"loss": "triplet"})
    gaps = (anchors * negatives).sum(-1) - (anchors * positives).sum(-1) + 0.2
    expected = gaps.clamp(min=0).mean()
    torch.testing.assert_close(make_loss(spec)(list(vectors), torch.zeros(6)), expected)


@pytest.mark.parametrize("loss", ["triplet", "cosent"])
def test_the_micro_batch_changes_no_weight(encoder: Path, tmp_path: Path, loss: str) -> None:
    weights = []
    rows = scored(40) if loss == "cosent" else triplets(40)
    for micro in (16, 4):
        training = {**SGD, "micro_batch_size": micro}
        spec = _spec(loss=loss, training=training, data={"eval": None})
        directory = make_run(tmp_path / str(micro), model=encoder, rows=rows, spec=spec)
        assert carry_out(directory).result is Result.SUCCEEDED
        weights.append(AutoModel.from_pretrained(directory.model).state_dict())
    base = AutoModel.from_pretrained(encoder).state_dict()
    moved = max(float((weights[0][name] - base[name]).abs().max()) for name in base)
    assert moved > 1e-3
    for other in weights[1:]:
        for name, tensor in weights[0].items():
            torch.testing.assert_close(other[name], tensor, rtol=0, atol=1e-5)


def test_micro_batches_with_dropout_have_the_gradient_of_gradcache(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder", dropout=0.3)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = triplets(6)
    columns = [[row[name] for row in rows] for name in ("anchor", "positive")]
    ids = [tokenizer(texts)["input_ids"] for texts in columns]
    # All texts of one length, so that ours are not sorted otherwise than theirs.
    ids = [[(one + [5] * 20)[:12] for one in texts] for texts in ids]
    features = [
        {
            "input_ids": torch.tensor(texts),
            "token_type_ids": torch.zeros(6, 12, dtype=torch.int64),
            "attention_mask": torch.ones(6, 12, dtype=torch.int64),
        }
        for texts in ids
    ]
    model = SentenceTransformer(str(folder), device="cpu").train()
    torch.manual_seed(0)
    theirs = CachedMultipleNegativesRankingLoss(model, mini_batch_size=3)(features, None)
    theirs.backward()
    named = dict(model[0].model.named_parameters())
    expected = {name: p.grad.clone() for name, p in named.items() if p.grad is not None}
    model.zero_grad()

    data = {"train": "dataset:ds_0123456789ab", "columns": {"anchor": "anchor"}}
    spec = parse_spec({"task": "sentence-embedding", "model": "model:m", "data": data})
    pool = pooling_module("mean", num_dimensions=32)
    embed = Embedder(pool=pool, is_normalized=True, num_texts=3)
    batch = {name: torch.cat([part[name] for part in features]) for name in features[0]}
    torch.manual_seed(0)
    loss, _ = EmbeddingLoss(embed, make_loss(spec))(
        model[0].model, {**batch, "labels": torch.zeros(6)}, torch.tensor(6)
    )
    loss.backward()
    torch.testing.assert_close(loss, theirs)
    assert len(expected) > 20
    for name, gradient in expected.items():
        torch.testing.assert_close(named[name].grad, gradient, rtol=1e-4, atol=1e-6)


def test_a_run_that_embeds_in_parts_and_is_stopped_ends_as_if_it_was_not(tmp_path: Path) -> None:
    encoder = save_encoder(tmp_path / "encoder")
    training = {**FAST, "batch_size": 8, "epochs": 2, "micro_batch_size": 4}
    whole, halved = (
        make_run(tmp_path / name, model=encoder, rows=pairs(40), spec=_spec(training=training))
        for name in ("whole", "halved")
    )
    assert carry_out(whole).result is Result.SUCCEEDED
    assert stop_after(halved, step=3).result is Result.STOPPED
    assert carry_out(halved).result is Result.SUCCEEDED
    codes = {line.data["code"] for line in events_of(halved, "warning")}
    assert codes <= {"no_gain"}  # of so few steps
    hashes = [file_sha256(run.model / "model.safetensors") for run in (whole, halved)]
    assert hashes[0] == hashes[1]


def test_an_adapter_learns_and_is_merged(encoder: Path, tmp_path: Path) -> None:
    training = {**FAST, "learning_rate": 1e-2, "epochs": 8}
    spec = _spec(adapter={"r": 8}, training=training)
    test = triplets(40, seed=2)
    directory = make_run(tmp_path / "run", model=encoder, rows=triplets(240), spec=spec, test=test)
    metrics = carry_out(directory).metrics
    assert metrics["test_triplet_accuracy"] > 0.85
    model = SentenceTransformer(str(directory.model), device="cpu")
    columns = ([row[name] for row in test] for name in ("anchor", "positive", "negative"))
    theirs = TripletEvaluator(*columns, write_csv=False)(model)
    assert metrics["test_triplet_accuracy"] == pytest.approx(theirs["cosine_accuracy"])


def test_an_adapter_alone_says_how_to_pool(encoder: Path, tmp_path: Path) -> None:
    spec = _spec(adapter={"r": 4, "output": "adapter"}, training={**FAST, "epochs": 1})
    directory = make_run(
        tmp_path / "run", model=encoder, rows=pairs(40), spec={**spec, "pooling": "cls"}
    )
    assert carry_out(directory).result is Result.SUCCEEDED
    assert not (directory.model / "config.json").exists()
    assert read_json(directory.model / "1_Pooling" / "config.json")["pooling_mode"] == "cls"
    settings = read_json(directory.model / "adapter_config.json")
    assert settings["base_model_name_or_path"] == "model:tiny"
    # Where the base model can be found by its name, the folder loads as it is.
    write_json(
        directory.model / "adapter_config.json",
        {**settings, "base_model_name_or_path": str(encoder)},
    )
    adapted = SentenceTransformer(str(directory.model), device="cpu")
    assert adapted[1].pooling_mode == "cls"
    assert len(adapted.encode("red round it")) == 32


def test_a_language_model_pools_its_last_token(tmp_path: Path) -> None:
    decoder = save_decoder(tmp_path / "decoder")
    spec = _spec(training={**FAST, "epochs": 1, "max_steps": 3})
    directory = make_run(tmp_path / "run", model=decoder, rows=pairs(40), spec=spec)
    outcome = carry_out(directory)
    assert outcome.result is Result.SUCCEEDED
    assert read_json(directory.resolved)["spec"]["pooling"] == "last"
    model = SentenceTransformer(str(directory.model), device="cpu")
    assert model[1].pooling_mode == "lasttoken"
    one, two = model.encode(["red", "red round it"])
    again = model.encode("red")  # without the padding that the longer text brings
    np.testing.assert_allclose(one, again, atol=1e-5)
    assert not np.allclose(one, two, atol=1e-2)


def test_a_knob_that_the_loss_does_not_have_is_told(encoder: Path, tmp_path: Path) -> None:
    training = {**FAST, "epochs": 1, "label_smoothing": 0.1}
    spec = _spec(margin=0.5, training=training)
    directory = make_run(tmp_path / "run", model=encoder, rows=pairs(40), spec=spec)
    assert carry_out(directory).result is Result.SUCCEEDED
    messages = [line.data["message"] for line in events_of(directory, "warning")]
    assert any("margin is not used: the loss 'in-batch'" in message for message in messages)
    assert any("training.label_smoothing is not used" in message for message in messages)


def test_several_processes_that_would_each_miss_negatives_are_refused(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = SimpleNamespace(num_processes=lambda: 2)
    monkeypatch.setattr(building, "processes", several)
    directory = make_run(tmp_path / "run", model=encoder, rows=pairs(40), spec=_spec())
    error = carry_out(directory).error
    assert error is not None
    assert (error.code, error.param) == ("invalid_spec", "/resources/gpus")
    assert "each of 2 processes would see its share" in error.message


def test_long_texts_are_cut_and_their_rows_counted(encoder: Path, tmp_path: Path) -> None:
    rows = [*pairs(30), {"anchor": "red " * 50, "positive": "red " * 60}]
    spec = _spec(max_length=32, data={"eval": None}, training={**FAST, "epochs": 1})
    directory = make_run(tmp_path / "run", model=encoder, rows=rows, spec=spec)
    carry_out(directory)
    (warning,) = events_of(directory, "warning")
    assert "1 of 31 train rows (3.2%) have more than 32 tokens" in warning.data["message"]


def test_words_of_the_toy_set_are_known() -> None:
    assert {word for topic in TOPICS for word in topic} | set(NOISE) <= set(WORDS)
