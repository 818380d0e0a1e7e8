"""`Llama`, scoring texts and filling gaps in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..engine.infill import InfillFile, InfillRoom, infill_prompt
from ..errors import ClosedError
from ._base import LlamaBase

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..core.adapters import LoraAdapter
    from ..engine.generation import Generation
    from ..engine.records import Completion
    from ..engine.scoring import Progress, Score, Scorer
    from ..sampling import SamplingParams
    from ._options import GenerateOptions


class ScoreMixin(LlamaBase):
    """Log-probabilities of given texts, and generation of what stands between two."""

    @property
    def scorer(self) -> Scorer:
        """What scores for this object: its context, apart from the one that generates, is made when it is needed.

        It has the threads and data types of the context that generates. As much of a text is seen at a time as the
        model was trained for; make a `Scorer` of your own for another size.
        """
        made: Scorer | None = self.__dict__.get("_scorer")
        if made is None:
            from ..engine.scoring import Scorer

            if self.closed:
                raise ClosedError("this Llama is closed", hint="make a new one; a closed object stays closed")
            params = dataclasses.replace(self.context.params, n_ctx=None, n_batch=None, n_ubatch=None)
            made = self.__dict__.setdefault("_scorer", Scorer(self.model, context_params=params))
        return made

    def score(
        self,
        text: str | bytes | Sequence[int],
        *,
        prefix: str | bytes | Sequence[int] = "",
        top_k: int = 0,
        stride: int | None = None,
        add_special: bool = True,
        parse_special: bool = False,
        loras: Mapping[LoraAdapter, float] | None = None,
        progress: Progress | None = None,
    ) -> Score:
        """Return the log-probability of each token of a text; see `Scorer.score`.

        The adapters of `set_lora` are used unless `loras` gives others.
        """
        return self.scorer.score(
            text, prefix=prefix, top_k=top_k, stride=stride, add_special=add_special, parse_special=parse_special,
            loras=self._loras if loras is None else loras, progress=progress,
        )  # fmt: skip

    async def ascore(
        self,
        text: str | bytes | Sequence[int],
        *,
        prefix: str | bytes | Sequence[int] = "",
        top_k: int = 0,
        stride: int | None = None,
        add_special: bool = True,
        parse_special: bool = False,
        loras: Mapping[LoraAdapter, float] | None = None,
        progress: Progress | None = None,
    ) -> Score:
        """`score` for event loops: cancelling the task cancels the computation."""
        return await self.scorer.ascore(
            text, prefix=prefix, top_k=top_k, stride=stride, add_special=add_special, parse_special=parse_special,
            loras=self._loras if loras is None else loras, progress=progress,
        )  # fmt: skip

    def infill_prompt(
        self,
        prefix: str,
        suffix: str,
        *,
        extra: Sequence[InfillFile] = (),
        prompt: str = "",
        repository: str = "myproject",
        filename: str = "filename",
        spm_infill: bool = False,
        room: InfillRoom | None = None,
    ) -> list[int]:
        """Write the prompt that `infill` uses; see `llamacore.engine.infill.infill_prompt` for the arguments."""
        return infill_prompt(
            self.model.vocab, prefix, suffix, extra=extra, prompt=prompt, repository=repository, filename=filename,
            spm_infill=spm_infill, room=room,
        )  # fmt: skip

    def infill(
        self,
        prefix: str,
        suffix: str,
        *,
        extra: Sequence[InfillFile] = (),
        prompt: str = "",
        repository: str = "myproject",
        filename: str = "filename",
        spm_infill: bool = False,
        room: InfillRoom | None = None,
        sampling: SamplingParams | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Completion:
        """Generate what stands between two texts, with a model that was trained for it.

        Args:
            prefix: Text before the gap.
            suffix: Text behind the gap.
            extra: Other files that the model should know, the most important last.
            prompt: Beginning of what fills the gap.
            repository: Name of the project.
            filename: Name of the file with the gap.
            spm_infill: Put the suffix before the prefix, as some models were trained.
            room: How many tokens there are for each part; what does not fit is cut. None cuts nothing: a prompt longer
                than the context is refused.
            sampling: How tokens are chosen; None for what the model file recommends, else upstream's defaults.
            **options: See `GenerateOptions`.

        Raises:
            UnsupportedError: The model has no tokens for filling in the middle.
            InvalidArgumentError: An argument is wrong.
        """
        tokens = self.infill_prompt(
            prefix, suffix, extra=extra, prompt=prompt, repository=repository, filename=filename,
            spm_infill=spm_infill, room=room,
        )  # fmt: skip
        return self.generate(tokens, sampling=sampling, **options)

    def stream_infill(
        self,
        prefix: str,
        suffix: str,
        *,
        extra: Sequence[InfillFile] = (),
        prompt: str = "",
        repository: str = "myproject",
        filename: str = "filename",
        spm_infill: bool = False,
        room: InfillRoom | None = None,
        sampling: SamplingParams | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Generation:
        """`infill` as it comes; the generation works with `for` and `async for`."""
        tokens = self.infill_prompt(
            prefix, suffix, extra=extra, prompt=prompt, repository=repository, filename=filename,
            spm_infill=spm_infill, room=room,
        )  # fmt: skip
        return self.stream(tokens, sampling=sampling, **options)

    async def ainfill(
        self,
        prefix: str,
        suffix: str,
        *,
        extra: Sequence[InfillFile] = (),
        prompt: str = "",
        repository: str = "myproject",
        filename: str = "filename",
        spm_infill: bool = False,
        room: InfillRoom | None = None,
        sampling: SamplingParams | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Completion:
        """`infill` for event loops: cancelling the task cancels the generation."""
        tokens = self.infill_prompt(
            prefix, suffix, extra=extra, prompt=prompt, repository=repository, filename=filename,
            spm_infill=spm_infill, room=room,
        )  # fmt: skip
        return await self.agenerate(tokens, sampling=sampling, **options)

    def close(self) -> None:
        """End what is running and free everything; see `LlamaBase.close`."""
        made: Scorer | None = self.__dict__.get("_scorer")
        if made is not None:
            made.close()
        super().close()
