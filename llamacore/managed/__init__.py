"""Models that are loaded when they are needed and unloaded when they are not."""

from __future__ import annotations

from .model import ManagedModel, ModelState
from .registry import ModelRegistry

__all__ = ["ManagedModel", "ModelRegistry", "ModelState"]
