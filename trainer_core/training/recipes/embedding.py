"""From tokens to vectors, and from vectors to a loss.

Shapes: B rows of a batch, N = K * B texts, those of a role together, T tokens, D dimensions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from trainer_core.training.recipes.recipe import Batch

# (the vectors of each role, (B, D); the scores, (B,)) to the loss of all rows.
VectorLoss = Callable[[list[torch.Tensor], torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Embedder:
    """From tokens to vectors, so many texts at a time.

    More rows than fit are embedded in turn. Their activations are dropped and computed again in
    the backward pass, with the same dropout: the gradient is that of all rows at once, as with
    GradCache (Gao et al. 2021).
    """

    pool: Any  # sentence-transformers' module
    is_normalized: bool
    num_texts: int  # of a forward pass

    def __call__(self, model: Any, batch: Batch) -> torch.Tensor:
        """Return the vectors of a batch's texts, (K, B, D) in fp32."""
        num_rows = len(batch["labels"])
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        embed = self._vectors
        if torch.is_grad_enabled() and num_rows > self.num_texts:
            embed = partial(checkpoint, self._vectors, use_reentrant=False)
        lengths_N = inputs["attention_mask"].sum(dim=1)
        order_N = lengths_N.argsort(descending=True, stable=True)  # little is padded
        passes = []
        for texts in torch.split(order_N, self.num_texts):
            length = int(lengths_N[texts[0]])
            part = {name: tensor[texts, :length] for name, tensor in inputs.items()}
            passes.append(embed(model, part))
        vectors_ND = torch.cat(passes)[order_N.argsort()]
        return vectors_ND.view(-1, num_rows, vectors_ND.shape[1])

    def _vectors(self, model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        tokens_BTD = model(**inputs).last_hidden_state.float()
        features = {"token_embeddings": tokens_BTD, "attention_mask": inputs["attention_mask"]}
        vectors_BD: torch.Tensor = self.pool(features)["sentence_embedding"]
        return functional.normalize(vectors_BD) if self.is_normalized else vectors_BD


@dataclass(frozen=True, slots=True)
class EmbeddingLoss:
    """One of sentence-transformers' losses, each of which is a mean over rows or one of a batch."""

    embed: Embedder
    loss: VectorLoss

    def __call__(
        self, model: Any, batch: Batch, num_rows: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        vectors_KBD = self.embed(model, batch)
        with torch.autocast(vectors_KBD.device.type, enabled=False):  # cosines are scaled up
            mean = self.loss(list(vectors_KBD), batch["labels"])
        return mean * len(batch["labels"]) / num_rows, vectors_KBD
