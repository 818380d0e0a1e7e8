"""`Llama.from_pretrained`: a model of the Hugging Face Hub, and the sampling that is recommended for a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..hub import DownloadProgress, download
from ..presets import Recommendation, recommend
from ._base import LlamaBase

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..params import StrPath


class PretrainedMixin(LlamaBase):
    """Where a model comes from, and what is known of it."""

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        quant: str | None = None,
        *,
        filename: str | None = None,
        revision: str | None = None,
        cache_dir: StrPath | None = None,
        local_dir: StrPath | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        download_progress: DownloadProgress | None = None,
        **options: Any,
    ) -> Self:
        """Load a model of the Hugging Face Hub, which is fetched first where it is not on this machine (extra `hub`).

        Args:
            repo_id: The repository, "owner/name", or "owner/name:quant".
            quant: Quantisation in any case ("q4_k_m"), or a file name or pattern; None for Q4_K_M, else Q8_0, else
                what there is.
            filename: Name of the file, or a pattern with `*`, instead of a quantisation.
            revision: Branch, tag or commit; None for the main branch.
            cache_dir: Folder of the cache; None for that of huggingface_hub (`HF_HOME`).
            local_dir: Folder to place the files in instead of the cache.
            token: Access token; None for the one that is stored or in `HF_TOKEN`, False for none.
            local_files_only: Ask nothing of the network: use what is in the cache.
            download_progress: Called with a file's name, the bytes that are here and all of its bytes; returning False
                cancels.
            **options: Everything that `Llama` takes but the model.

        Raises:
            UnsupportedError: huggingface_hub is not installed.
            ModelNotFoundError: There is no such repository, quantisation or file; the message lists what there is.
            InvalidArgumentError: Several files fit (the message lists them), or an option is wrong.
            ModelLoadError: The hub could not be reached, or the model could not be loaded.
        """
        if quant is not None and filename is None and ("*" in quant or quant.lower().endswith(".gguf")):
            quant, filename = None, quant
        got = download(
            repo_id, quant, file=filename, revision=revision, cache_dir=cache_dir, local_dir=local_dir, token=token,
            local_files_only=local_files_only, progress=download_progress,
        )  # fmt: skip
        return cls(got.path, **options)

    def recommended_sampling(self, thinking: bool | None = None) -> Recommendation:
        """Return the sampling that is recommended for this model, and why.

        Its `options` go into every call that takes `SamplingParams` fields: `llm.generate(text, **found.options)`.

        Args:
            thinking: Whether it will think before it answers; None for what its family does by itself.
        """
        return recommend(self.model.metadata, file_name=self.model.paths[0], thinking=thinking)
