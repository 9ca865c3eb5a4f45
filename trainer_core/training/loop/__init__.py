"""`transformers.Trainer` for any recipe: its steps, checkpoints, reports and trackers."""
