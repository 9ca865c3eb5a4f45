"""Losses as functions of tensors, which know no task."""
