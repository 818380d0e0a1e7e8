"""Finding model files."""

from __future__ import annotations

from pathlib import Path

from .errors import ModelNotFoundError

DEMO_MODEL = "llamacore-demo-q8_0.gguf"


def demo_model_path() -> Path:
    """Return the path of the demo model that the package carries.

    Raises:
        ModelNotFoundError: It was left out of this installation.
    """
    path = Path(__file__).parent / "data" / DEMO_MODEL
    if not path.is_file():
        raise ModelNotFoundError(
            f"the demo model is missing: there is no {path}", hint="reinstall llamacore, or give a model"
        )
    return path
