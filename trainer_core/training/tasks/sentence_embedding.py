"""Sentence embedding: texts to vectors that are close where the texts belong together.

    {"anchor": "My card was swallowed", "positive": "The machine kept my card"}       pairs
    {"anchor": …, "positive": …, "negative": "My card has not arrived"}               triplets
    {"text": "A man sings", "text_pair": "Someone sings", "score": 4.2}               scored

Of each row K texts are embedded on their own, all by the same body. Shapes: B rows of a batch,
N = K * B texts, those of a role together, T tokens, D dimensions.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr
from sentence_transformers.sentence_transformer.losses import (
    CoSENTLoss,
    CosineSimilarityLoss,
    MultipleNegativesRankingLoss,
    TripletDistanceMetric,
    TripletLoss,
)
from torch.nn import functional
from transformers import MODEL_MAPPING, AutoModel, PreTrainedModel

from trainer_core.errors import UnusableModel
from trainer_core.events import Phase, Reporter, Warned
from trainer_core.spec.tasks.sentence_embedding import ScoredRow, SentenceEmbedding, TripletRow
from trainer_core.training.data.batching import attention_mask, pad_rows
from trainer_core.training.data.encoding import encode
from trainer_core.training.data.tokens import Array, TokenRow, padding_id
from trainer_core.training.models.base_model import check_architecture, load_model
from trainer_core.training.models.sentence_folders import (
    SentenceForm,
    pooling_module,
    read_form,
    write_form,
)
from trainer_core.training.recipes.embedding import Embedder, EmbeddingLoss, VectorLoss
from trainer_core.training.recipes.recipe import Batch, Measured, Recipe, Setup, count_rows
from trainer_core.training.recipes.retrieval import Indexes, Retrieval, retrieve
from trainer_core.training.recipes.tokenizing import Tokenized, tokenize_splits


def tokenize_rows(
    setup: Setup, spec: SentenceEmbedding, form: SentenceForm
) -> dict[str, Tokenized]:
    """Return the tokens of every split: a row's texts end to end, and the length of each."""
    max_length = spec.max_length
    assert max_length != "auto", "the spec is resolved before"
    query, document = (form.prompts.get(name, "") for name in ("query", "document"))

    def encode_rows(rows: Sequence[Any], counts: Counter[str]) -> Iterator[TokenRow]:
        texts = [text for row in rows for text in _texts(row, query=query, document=document)]
        encoded = iter(encode(setup.base.tokenizer, texts, max_length=max_length))
        for row in rows:
            parts = [next(encoded) for _ in range(spec.num_sequences)]
            counts["truncated"] += any(part.is_truncated for part in parts)
            yield {
                "input_ids": np.concatenate([part.ids for part in parts]),
                "token_type_ids": np.concatenate([part.type_ids for part in parts]),
                "lengths": np.array([len(part.ids) for part in parts]),
                "labels": np.array([row.score if isinstance(row, ScoredRow) else 0.0]),
            }

    columns = {
        "input_ids": np.int32,
        "token_type_ids": np.int8,
        "lengths": np.int32,
        "labels": np.float32,
    }
    return tokenize_splits(setup, columns=columns, encode=encode_rows)


def _texts(row: Any, *, query: str, document: str) -> Iterator[str]:
    is_scored = isinstance(row, ScoredRow)
    yield query + (row.text if is_scored else row.anchor)
    yield document + (row.text_pair if is_scored else row.positive)
    if isinstance(row, TripletRow):
        yield document + row.negative


def load(setup: Setup, spec: SentenceEmbedding) -> PreTrainedModel:
    """Return the body; its own pooler, which is not used, may be new."""
    base = setup.base
    check_architecture(base, MODEL_MAPPING, task=spec.task)
    if getattr(base.config, "is_encoder_decoder", False):
        raise UnusableModel(
            f"a model of type '{base.config.model_type}' is an encoder with a decoder; expected "
            "one body.",
            hint="Use an encoder such as BERT, or a language model.",
        )
    padding_id(base.tokenizer)  # before the model learns the tokenizer's special tokens
    loaded = load_model(base, AutoModel, changes={}, seed=spec.training.seed, is_head_new=True)
    if absent := set(loaded.new_modules) - {"pooler"}:
        raise UnusableModel(
            f"the model's files have no weights for '{min(absent)}'.",
            hint="Use a model whose config.json belongs to its weights.",
        )
    return loaded.model


@dataclass(frozen=True, slots=True)
class TextsCollator:
    """Pads the texts of a batch to the longest: all first texts, then all second ones."""

    pad_token_id: int
    has_token_types: bool

    def __call__(self, rows: Sequence[TokenRow]) -> dict[str, torch.Tensor]:
        ids = _by_role(rows, "input_ids")
        batch = {
            "input_ids": pad_rows(ids, value=self.pad_token_id),
            "attention_mask": attention_mask(ids),
            "labels": torch.from_numpy(np.concatenate([row["labels"] for row in rows])),
        }
        if self.has_token_types:
            batch["token_type_ids"] = pad_rows(_by_role(rows, "token_type_ids"), value=0)
        return batch


def _by_role(rows: Sequence[TokenRow], column: str) -> list[Array]:
    roles = zip(*(texts_of(row, column) for row in rows), strict=True)
    return [text for texts in roles for text in texts]


def texts_of(row: TokenRow, column: str) -> list[Array]:
    """Return the part of a column that is each text's."""
    ends = np.cumsum(row["lengths"]).tolist()
    starts = [0, *ends[:-1]]
    return [row[column][start:end] for start, end in zip(starts, ends, strict=True)]


def make_loss(spec: SentenceEmbedding) -> VectorLoss:
    """Return the loss as a function of the vectors of each role and the scores."""
    match spec.loss_in_use:
        case "in-batch":
            ways = ("query_to_doc", "doc_to_query") if spec.symmetric else ("query_to_doc",)
            loss: Any = MultipleNegativesRankingLoss(
                None, scale=spec.scale, directions=ways, partition_mode="per_direction"
            )
        case "triplet":
            cosine = TripletDistanceMetric.COSINE
            loss = TripletLoss(None, distance_metric=cosine, triplet_margin=spec.margin)
        case "cosent":
            loss = CoSENTLoss(None, scale=spec.scale)
        case "cosine":
            loss = CosineSimilarityLoss(None)
    compute: VectorLoss = loss.compute_loss_from_embeddings
    return compute


def cosines(_model: Any, _batch: Batch, vectors_2BD: torch.Tensor) -> torch.Tensor:
    """Return of each scored pair its cosine, (B, 1)."""
    return functional.cosine_similarity(vectors_2BD[0], vectors_2BD[1])[:, None]


def vectors(_model: Any, _batch: Batch, vectors_KBD: torch.Tensor) -> torch.Tensor:
    """Return of each row its vectors, (B, K, D)."""
    return vectors_KBD.transpose(0, 1)


def scored_metrics(measured: Measured, *, reporter: Reporter) -> dict[str, float]:
    """Return the correlations of cosines and scores, where they are defined."""
    cosines_B = np.stack(measured.predictions)[:, 0].astype(np.float64)
    scores_B = measured.rows.values("labels").astype(np.float64)
    if len(scores_B) < 2 or not cosines_B.std() > 0 or not scores_B.std() > 0:
        message = "spearman and pearson are left out: all cosines, or all scores, are the same."
        hint = "Give more rows to evaluate on."
        reporter.report(Warned("metric_undefined", message, hint))
        return {}
    return {
        "spearman": float(spearmanr(scores_B, cosines_B).statistic),
        "pearson": float(pearsonr(scores_B, cosines_B).statistic),
    }


def retrieval_metrics(measured: Measured) -> dict[str, float]:
    """Return how well the anchors find their positives among all of the split's positives."""
    found, _ = _retrieval(measured)
    metrics = {f"recall_at_{k}": found.recall_at(k) for k in (1, 5, 10)}
    metrics["mrr"] = found.mean_reciprocal_rank()
    vectors_BKD = np.stack(measured.predictions)
    if vectors_BKD.shape[1] == 3:
        positive_B, negative_B = _cosines(vectors_BKD, 1), _cosines(vectors_BKD, 2)
        metrics["triplet_accuracy"] = float((positive_B > negative_B).mean())
    return metrics


def _retrieval(measured: Measured) -> tuple[Retrieval, Indexes]:
    vectors_BKD = np.stack(measured.predictions)
    # Two texts that have the same tokens have the same vector.
    texts = [texts_of(row, "input_ids") for row in _each(measured)]
    return retrieve(
        [text[0].tobytes() for text in texts],
        [text[1].tobytes() for text in texts],
        vectors_BKD[:, 0],
        vectors_BKD[:, 1],
    )


def _each(measured: Measured) -> Iterator[TokenRow]:
    return (measured.rows[number] for number in range(len(measured.rows)))


def _cosines(vectors_BKD: Array, role: int) -> Array:
    """Return the cosines of the first text of each row and another one."""
    first_BD, other_BD = vectors_BKD[:, 0], vectors_BKD[:, role]
    lengths_B = np.linalg.norm(first_BD, axis=1) * np.linalg.norm(other_BD, axis=1)
    found: Array = (first_BD * other_BD).sum(axis=1) / np.maximum(lengths_B, 1e-12)
    return found


def scored_predictions(measured: Measured) -> Iterable[Mapping[str, Any]]:
    """Yield the cosine of each pair."""
    return ({"similarity": float(cosine)} for (cosine,) in measured.predictions)


def retrieval_predictions(measured: Measured) -> Iterable[Mapping[str, Any]]:
    """Yield each row's cosines, and the rank of its positive among all positives."""
    vectors_BKD = np.stack(measured.predictions)
    columns = {"rank": _retrieval(measured)[1].tolist()}
    names = ("similarity", "negative_similarity")[: vectors_BKD.shape[1] - 1]
    columns |= {name: _cosines(vectors_BKD, role + 1).tolist() for role, name in enumerate(names)}
    return (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))


def build(setup: Setup) -> Recipe:
    """Return the recipe of sentence embedding."""
    spec, tokenizer = setup.spec, setup.base.tokenizer
    assert isinstance(spec, SentenceEmbedding), f"a spec of another task: {spec.task}"
    assert spec.training.micro_batch_size != "auto", "the spec is resolved before"
    form = _form(setup, spec)
    model = load(setup, spec)
    num_dimensions = model.config.get_text_config().hidden_size
    embed = Embedder(
        pool=pooling_module(form.pooling, num_dimensions=num_dimensions),
        is_normalized=form.is_normalized,
        num_texts=spec.training.micro_batch_size,
    )
    setup.enter(Phase.TOKENIZING)
    tokenized = tokenize_rows(setup, spec, form=form)
    tokenizer.model_max_length = spec.max_length  # where sentence-transformers cuts from now on
    return Recipe(
        model=model,
        tokenizer=tokenizer,
        rows={split: tokens.rows for split, tokens in tokenized.items()},
        collate=TextsCollator(
            padding_id(tokenizer), "token_type_ids" in tokenizer.model_input_names
        ),
        forward_loss=EmbeddingLoss(embed, make_loss(spec)),
        count_targets=count_rows,
        targets_per_row=1.0,
        adapter_task="FEATURE_EXTRACTION",
        new_modules=(),
        num_truncated={split: t.counts["truncated"] for split, t in tokenized.items()},
        classes=(),
        pipeline="sentence-similarity",
        usage=_PROMPTED_USAGE if form.prompts else _USAGE,
        add_files=partial(
            write_form, form=form, base=setup.base.path, num_dimensions=num_dimensions
        ),
        is_step_whole=spec.loss_in_use in ("in-batch", "cosent"),
        **_measures(setup, spec),
    )


def _form(setup: Setup, spec: SentenceEmbedding) -> SentenceForm:
    """Return the base model's way with what the spec says of it."""
    assert spec.pooling != "auto", "the spec is resolved before"
    own = read_form(setup.base.path, setup.base.config)
    asked = {"query": spec.query_prompt, "document": spec.document_prompt}
    prompts = {**own.prompts, **{name: text for name, text in asked.items() if text is not None}}
    return replace(own, pooling=spec.pooling, is_normalized=bool(spec.normalize), prompts=prompts)


def _measures(setup: Setup, spec: SentenceEmbedding) -> Mapping[str, Any]:
    if spec.columns.form == "scored":
        measure: Any = partial(scored_metrics, reporter=setup.reporter)
        return {"predict": cosines, "measure": measure, "predictions": scored_predictions}
    return {
        "predict": vectors,
        "measure": retrieval_metrics,
        "predictions": retrieval_predictions,
    }


_USAGE = """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{folder}")
vectors = model.encode(["A text", "Another text"])
print(model.similarity(vectors, vectors))
"""
_PROMPTED_USAGE = """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{folder}")
query = model.encode_query("What to search for")
documents = model.encode_document(["A text", "Another text"])
print(model.similarity(query, documents))
"""
