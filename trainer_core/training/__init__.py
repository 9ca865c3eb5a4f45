"""Training itself: `python -m trainer_core.training RUN_DIR` carries out a run directory.

The only package that imports torch, transformers and peft. It knows no job, HTTP, SQL or Redis.
"""
