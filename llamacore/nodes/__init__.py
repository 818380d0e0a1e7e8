"""Streaming nodes: parts of a pipeline that take envelopes and give envelopes.

The parts, arrows pointing down:

- `pipeline.py`, `session*.py`, `manifest*.py`, `registry.py`: nodes that work together
- `generation.py`, `embedding.py`, `activation.py`, `steer*.py`: the four nodes
- `turn.py`: one turn of a `GenerationNode`; `prompting.py` asks the model, `stream_filter.py` reads what it writes,
  `tools.py` does what it calls, `conversation.py` remembers it, `control.py` is the ports
- `shared.py`: models that nodes share
- `params.py`, `reading.py`: what nodes can be told, and how it is read
- `node.py`, `gate.py`, `ports.py`: what a node is, how it is interrupted, what it is told beside its data
- `data.py`, `tensor.py`: the envelopes

Names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "data": (
        "DEFAULT_CHANNEL", "TEXT_END", "Binary", "ControlMessage", "Data", "File", "Json", "Tensor", "Text",
        "from_dict", "to_dict",
    ),
    "gate": ("CancelGate", "ProtectGuard"),
    "node": ("Node", "NodeConfig", "NodeContext", "NodeStatus", "Progress"),
    "ports": ("aux",),
    "generation": ("GenerationNode",),
    "embedding": ("EmbeddingNode",),
    "activation": ("ActivationNode",),
    "steer": ("SteerNode",),
    "tools": ("NodeTool",),
    "registry": ("node_class", "node_types", "register_node"),
    "multi_input": ("MultiInputNode",),
    "manifest": ("Manifest",),
    "manifest_sources": ("ModelSource", "model_sources"),
    "session": ("Emitted", "Session"),
    "node_error": ("NodeError",),
    "pipeline": ("Pipeline",),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'llamacore.nodes' has no attribute {name!r}")
    value = getattr(import_module(f"llamacore.nodes.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:
    from .activation import ActivationNode as ActivationNode
    from .data import DEFAULT_CHANNEL as DEFAULT_CHANNEL
    from .data import TEXT_END as TEXT_END
    from .data import Binary as Binary
    from .data import ControlMessage as ControlMessage
    from .data import Data as Data
    from .data import File as File
    from .data import Json as Json
    from .data import Tensor as Tensor
    from .data import Text as Text
    from .data import from_dict as from_dict
    from .data import to_dict as to_dict
    from .embedding import EmbeddingNode as EmbeddingNode
    from .gate import CancelGate as CancelGate
    from .gate import ProtectGuard as ProtectGuard
    from .generation import GenerationNode as GenerationNode
    from .manifest import Manifest as Manifest
    from .manifest_sources import ModelSource as ModelSource
    from .manifest_sources import model_sources as model_sources
    from .multi_input import MultiInputNode as MultiInputNode
    from .node import Node as Node
    from .node import NodeConfig as NodeConfig
    from .node import NodeContext as NodeContext
    from .node import NodeStatus as NodeStatus
    from .node import Progress as Progress
    from .node_error import NodeError as NodeError
    from .pipeline import Pipeline as Pipeline
    from .ports import aux as aux
    from .registry import node_class as node_class
    from .registry import node_types as node_types
    from .registry import register_node as register_node
    from .session import Emitted as Emitted
    from .session import Session as Session
    from .steer import SteerNode as SteerNode
    from .tools import NodeTool as NodeTool
