"""Making a drafter: what it needs of the target's context, the context that drafts, and the session."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...core.model import Model
from ...core.speculative import (
    SpeculativeConfig,
    SpeculativeSession,
    draft_context,
    mtp_context,
    require_compatible,
    speculative_types,
)
from ...errors import InvalidArgumentError, UnsupportedError
from ...params import ContextParams, ModelParams
from .drafter import Drafter
from .params import DraftModel, Mtp, Ngram, Speculative

if TYPE_CHECKING:
    from ...core.context import Context

_PLAIN = "draft-simple"


def target_params(params: ContextParams, model: Model, speculative: Speculative) -> ContextParams:
    """Return the parameters of a context that lets its tokens be drafted: room for their rows, and for going back."""
    n_max = speculative.n_max
    per_text = (params.n_outputs_max or 0) * (n_max + 1) or None
    if not (model.is_recurrent or model.is_hybrid):
        return dataclasses.replace(params, n_outputs_max=per_text)
    return dataclasses.replace(params, n_outputs_max=per_text, n_rs_seq=max(params.n_rs_seq or 0, n_max))


def can_draft(context: Context) -> bool:
    """Whether a context that was made with `target_params` can take back what is drafted wrongly."""
    model = context.model
    return context.n_rs_seq > 0 or not (model.is_recurrent or model.is_hybrid)


def open_drafter(context: Context, speculative: Speculative) -> Drafter:
    """Make what drafts for an engine on this context, which was made with `target_params`.

    Raises:
        UnsupportedError: The model has no MTP layers, or a recurrent state without snapshots; or the draft model is of
            another vocabulary or cannot be cut.
        InvalidArgumentError: The context cannot take back as many tokens as are drafted.
        ModelLoadError: The draft model could not be loaded.
        ContextError: The context that drafts could not be created.
    """
    if not can_draft(context):
        raise UnsupportedError(
            f"nothing can be drafted for {context.model.desc}: its memory takes nothing back",
            hint="leave speculative out",
        )
    if isinstance(speculative, Ngram):
        return _drafter(context, None, [], speculative, (speculative.type,))
    if isinstance(speculative, Mtp):
        return _with_mtp(context, speculative)
    return _with_model(context, speculative)


def _with_mtp(context: Context, mtp: Mtp) -> Drafter:
    with contextlib.ExitStack() as opened:
        model, owned = _model(mtp.model, ModelParams(load_mtp=True), opened)
        if model is None and not context.model.n_layer_nextn:
            raise UnsupportedError(
                f"{context.model.desc} has no layers for MTP",
                hint="use DraftModel(model=...) or Ngram(), or a file that has them",
            )
        draft = opened.enter_context(contextlib.closing(mtp_context(context, model)))
        drafter = _drafter(context, draft, [draft, *owned], mtp, ("draft-mtp",))
        opened.pop_all()
        return drafter


def _with_model(context: Context, asked: DraftModel) -> Drafter:
    with contextlib.ExitStack() as opened:
        loading = ModelParams() if asked.n_gpu_layers is None else ModelParams(n_gpu_layers=asked.n_gpu_layers)
        model, owned = _model(asked.model, loading, opened)
        assert model is not None
        types = (asked.type,) if asked.type != "auto" else speculative_types(model.paths[0]) or (_PLAIN,)
        if types == (_PLAIN,):
            require_compatible(context.model, model)
        if model.is_recurrent or model.is_hybrid:
            raise UnsupportedError(
                f"{model.desc} cannot draft: its memory cannot take back what was wrong",
                hint="use a draft model of attention layers alone",
            )
        draft = opened.enter_context(contextlib.closing(draft_context(context, model, types, asked.n_max)))
        drafter = _drafter(context, draft, [draft, *owned], asked, types)
        opened.pop_all()
        return drafter


def _model(given: Any, params: ModelParams, opened: contextlib.ExitStack) -> tuple[Model | None, list[Model]]:
    """The model that is given, and a list of it if it is ours to close."""
    if given is None or isinstance(given, Model):
        return given, []
    model = opened.enter_context(contextlib.closing(Model.load(given, params)))
    return model, [model]


def _drafter(
    context: Context, draft: Context | None, owned: Sequence[Any], speculative: Speculative, types: Sequence[str]
) -> Drafter:
    options: dict[str, Any] = {"synthetic_rates": speculative.synthetic_rates or None, "trims": True}
    if isinstance(speculative, Ngram):
        most = speculative.n_max
        options |= {
            "ngram_size_n": speculative.size_n, "ngram_size_m": min(speculative.size_m, most),
            "ngram_min_hits": speculative.min_hits, "ngram_mod_n_match": speculative.n_match,
            "ngram_mod_n_min": 0, "ngram_mod_n_max": most,
            "lookup_cache_static": speculative.lookup_cache_static,
            "lookup_cache_dynamic": speculative.lookup_cache_dynamic,
        }  # fmt: skip
    else:
        options |= {
            "n_min": speculative.n_min, "p_min": speculative.p_min,
            "backend_sampling": bool(context.model.devices) if speculative.backend_sampling is None
            else speculative.backend_sampling,
        }  # fmt: skip
    config = SpeculativeConfig(types=tuple(types), n_seq=context.n_seq_max, n_draft_max=speculative.n_max, **options)
    session = SpeculativeSession(config, context, draft)
    n_max = min(speculative.n_max, session.n_draft_max)
    if n_max < 1:
        session.close()
        raise InvalidArgumentError(
            "the context cannot take back a drafted token", hint=f"make it with n_rs_seq={speculative.n_max}"
        )
    own = None if session.shares_memory else draft
    return Drafter(session, own, owned, n_max=n_max, adaptive=speculative.adaptive)
