"""Figures of predictions, which know no model."""
