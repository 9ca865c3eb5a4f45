"""From rows to arrays of tokens, in the order and the batches in which they are learnt."""
