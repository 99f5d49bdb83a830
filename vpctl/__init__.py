"""Align text-to-image models with preferences judged by multimodal language models."""

__version__ = "0.1.0"
