"""Texts read and compared, without a model."""
