"""Shapes of public architectures, and the same read from a Hugging Face `config.json`.

Only what attention needs: heads, sizes, layers, and what a layer does to its scores. A file is
read by the declaration of its `model_type`; what is not declared is refused, since a field that
means something else elsewhere gives wrong numbers that nobody notices.
"""

from __future__ import annotations

from variants.models.architecture import Model, ModelError
from variants.models.config_file import model_from_config, read_model
from variants.models.published import MODELS

__all__ = ["MODELS", "Model", "ModelError", "model_from_config", "read_model"]
