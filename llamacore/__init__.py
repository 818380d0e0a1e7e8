"""llamacore: language models of the GGUF format inside a Python process, on llama.cpp's own libraries.

Layout, arrows pointing down:
    cli/                   the commands, one file each
    nodes/                 streaming nodes and pipelines
    pool/ managed/         several models
    steering/              training control vectors
    llama/                 Llama, the facade
    openai/                the OpenAI API's requests and responses
    engine/                requests in, text out: scheduler, prefix cache, embedding, scoring
    chat/                  templates, replies, tools, structured output, conversations
    sampling.py presets.py how tokens are chosen
    core/                  owned native objects, one C concept a file; core/_native.py alone sees llamacore_sys
    params.py errors.py    what can be asked for, and what can go wrong
    gguf/ hub.py           reading and finding model files
    testing/               tiny models for tests, ours and yours
    llamacore_sys          ffi and lib over the shared libraries

Names are imported when they are first used, so that `import llamacore` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "llamacore.llama": ("Llama",),
    "llamacore.llama._chat_records": ("ChatChunk", "ChatReply"),
    "llamacore.managed": ("ManagedModel", "ModelRegistry"),
    "llamacore.pool": ("LlamaPool",),
    "llamacore.engine.embedding": ("Embedder", "RerankResult"),
    "llamacore.engine.scoring": ("Score", "Scorer"),
    "llamacore.engine.infill": ("InfillFile", "InfillRoom"),
    "llamacore.chat.conversation": ("Conversation",),
    "llamacore.chat.message": ("ChatMessage", "ToolCall"),
    "llamacore.chat.structured": ("output_format",),
    "llamacore.chat.tools": ("Tool",),
    "llamacore.engine.engine": ("Engine", "EngineParams"),
    "llamacore.engine.generation": ("Generation",),
    "llamacore.engine.records": ("Activation", "Chunk", "Completion", "TokenLogprob", "Timings", "Usage"),
    "llamacore.engine.request": ("GenerationParams", "Request"),
    "llamacore.engine.speculation.params": ("DraftModel", "Mtp", "Ngram"),
    "llamacore.engine.stats": ("EngineEvent", "EngineStats", "SpeculationStats"),
    "llamacore.chat.template": ("ChatTemplate",),
    "llamacore.sampling": ("SamplingParams",),
    "llamacore.params": ("ContextParams", "ModelParams"),
    "llamacore.steering": ("train_control_vector",),
    "llamacore.core.model": ("Model",),
    "llamacore.core.context": ("Context",),
    "llamacore.core.batch": ("Batch",),
    "llamacore.core.sampler": ("Sampler",),
    "llamacore.core.vocab": ("TokenAttr", "Vocab"),
    "llamacore.core.speculative": ("MtpSession", "MtpSessionConfig", "SpeculativeConfig", "SpeculativeSession"),
    "llamacore.core.state": ("StateFlags",),
    "llamacore.core.adapters": ("LoraAdapter",),
    "llamacore.core.capture": ("TensorCapture",),
    "llamacore.core.fit": ("Fit", "FitExtra", "FitParams", "fit"),
    "llamacore.core.rpc": ("add_rpc_server", "disconnect_rpc_server"),
    "llamacore.core.control_vector": ("ControlVector",),
    "llamacore.core.tap": ("LayerTap",),
    "llamacore.core.quantize": ("Ftype", "QuantizeParams", "quantize"),
    "llamacore.errors": (
        "AbortedError", "AdapterError", "BrokenError", "BusyError", "ClosedError", "CompanionError", "ContextError",
        "ContextFullError", "DamagedSetError", "DecodeError", "DownloadError", "GrammarError", "IncompatibleSetError",
        "IncompleteOutputError", "InvalidArgumentError", "InvalidModelError", "LlamaCoreError", "LoadCancelledError",
        "ModelLoadError", "ModelNotFoundError", "NativeError", "NoKvSlotError", "OutOfMemoryError", "OutOfRangeError",
        "OutputError", "PlatformNotPublishedError", "QuantizeError", "QueueFullError", "RpcError", "SamplingError",
        "StateError", "StructuredOutputError", "TemplateError", "ToolError", "UnsupportedError",
    ),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = ["__version__", *sorted(_MODULE_OF)]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'llamacore' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


if TYPE_CHECKING:
    from .chat.conversation import Conversation as Conversation
    from .chat.message import ChatMessage as ChatMessage
    from .chat.message import ToolCall as ToolCall
    from .chat.structured import output_format as output_format
    from .chat.template import ChatTemplate as ChatTemplate
    from .chat.tools import Tool as Tool
    from .core.adapters import LoraAdapter as LoraAdapter
    from .core.batch import Batch as Batch
    from .core.capture import TensorCapture as TensorCapture
    from .core.context import Context as Context
    from .core.control_vector import ControlVector as ControlVector
    from .core.fit import Fit as Fit
    from .core.fit import FitExtra as FitExtra
    from .core.fit import FitParams as FitParams
    from .core.fit import fit as fit
    from .core.model import Model as Model
    from .core.quantize import Ftype as Ftype
    from .core.quantize import QuantizeParams as QuantizeParams
    from .core.quantize import quantize as quantize
    from .core.rpc import add_rpc_server as add_rpc_server
    from .core.rpc import disconnect_rpc_server as disconnect_rpc_server
    from .core.sampler import Sampler as Sampler
    from .core.speculative import MtpSession as MtpSession
    from .core.speculative import MtpSessionConfig as MtpSessionConfig
    from .core.speculative import SpeculativeConfig as SpeculativeConfig
    from .core.speculative import SpeculativeSession as SpeculativeSession
    from .core.state import StateFlags as StateFlags
    from .core.tap import LayerTap as LayerTap
    from .core.vocab import TokenAttr as TokenAttr
    from .core.vocab import Vocab as Vocab
    from .engine.embedding import Embedder as Embedder
    from .engine.embedding import RerankResult as RerankResult
    from .engine.engine import Engine as Engine
    from .engine.engine import EngineParams as EngineParams
    from .engine.generation import Generation as Generation
    from .engine.infill import InfillFile as InfillFile
    from .engine.infill import InfillRoom as InfillRoom
    from .engine.records import Activation as Activation
    from .engine.records import Chunk as Chunk
    from .engine.records import Completion as Completion
    from .engine.records import Timings as Timings
    from .engine.records import TokenLogprob as TokenLogprob
    from .engine.records import Usage as Usage
    from .engine.request import GenerationParams as GenerationParams
    from .engine.request import Request as Request
    from .engine.scoring import Score as Score
    from .engine.scoring import Scorer as Scorer
    from .engine.speculation.params import DraftModel as DraftModel
    from .engine.speculation.params import Mtp as Mtp
    from .engine.speculation.params import Ngram as Ngram
    from .engine.stats import EngineEvent as EngineEvent
    from .engine.stats import EngineStats as EngineStats
    from .engine.stats import SpeculationStats as SpeculationStats
    from .errors import *  # noqa: F403
    from .llama import Llama as Llama
    from .llama._chat_records import ChatChunk as ChatChunk
    from .llama._chat_records import ChatReply as ChatReply
    from .managed import ManagedModel as ManagedModel
    from .managed import ModelRegistry as ModelRegistry
    from .params import ContextParams as ContextParams
    from .params import ModelParams as ModelParams
    from .pool import LlamaPool as LlamaPool
    from .sampling import SamplingParams as SamplingParams
    from .steering import train_control_vector as train_control_vector
