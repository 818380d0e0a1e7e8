"""`SteerNode`: text from a model whose layer output is pushed along directions, as much as each session asks for."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

from ..core.control_vector import ControlVector
from ..errors import AdapterError, InvalidArgumentError, OutOfRangeError
from .data import TEXT_END, Data, Json, Text
from .gate import CancelGate
from .generation import GenerationNode
from .node import Node, NodeConfig, NodeContext
from .ports import read_aux
from .steer_params import SteerNodeParams
from .steer_state import Steering, coefficients_of, steering_delta
from .tensor import Tensor

_log = logging.getLogger("llamacore.nodes")

_PROMPTS = ("prompt", "text")


class SteerNode(Node):
    """Generates text while directions are added to the output of a layer.

    - A `Tensor` is a vector: float32, as many numbers as the model's layers give. Its label is "emotion" or "label" of
      its metadata, else "default". The answer is `Json {status: "vector_registered", label}`.
    - `Json {coefficients: {label: number}}` says how much of each is added from the next turn on. The answer is
      `Json {status: "coefficients_updated", session, coefficients}`, and "unknown" with labels that have no vector yet.
    - A prompt, `Text` or `Json` with "prompt" or "text", is answered as by `GenerationNode`, and then comes
      `Json {steering: {layer, layer_norm, delta_norm, applied, coefficients, mode}}`; `process` puts "text" beside it.

    What a session sends is that session's; what comes without a session is what new sessions begin with. Eight sessions
    that are steered differently run in one engine side by side.

    Args:
        config: `SteerNodeParams` as a mapping or JSON text, a `NodeConfig`, or None.

    Raises:
        InvalidArgumentError: The parameters are wrong, beginning with "Invalid config".
    """

    node_type = "LlamaCppSteerNode"
    params_type: ClassVar[Any] = SteerNodeParams
    params: SteerNodeParams

    def __init__(self, config: NodeConfig | Mapping[str, Any] | str | None = None) -> None:
        super().__init__(config)
        self.generation = _SteeredGeneration(self)
        """The node that generates; its tools, history and ports are this node's."""
        self.steering = Steering({}, {item.label: self._cut(item.coefficient) for item in self.params.vectors})
        """What new sessions begin with, and what calls without a session use."""
        # the engine tells vectors apart by identity: turns that are steered alike share the prompts that it keeps
        self._vector = functools.lru_cache(64)(self._make_vector)

    # its life

    async def initialize(self, context: NodeContext | None = None) -> None:
        """Load the model, or share it with other nodes of this process, and the vectors that are files.

        Raises:
            InvalidArgumentError: It was called before.
            ModelLoadError: The model or a vector could not be loaded.
            OutOfRangeError: The model has no such layer, or a file has no direction for it.
        """
        if context is not None:
            self.context = context
        for warning in self.warnings:
            _log.warning("node %s: %s", self.context.node_id or self.node_type, warning)
        await self.generation.initialize(self.context)
        try:
            await asyncio.to_thread(self._load_vectors)
        except BaseException:
            await self.generation.cleanup()
            self.status = "error"
            raise
        self.status = "ready"

    def _load_vectors(self) -> None:
        model, layer = self.generation.llama.model, self.params.layer
        if layer >= model.n_layer:
            raise OutOfRangeError(f"layer {layer}", hint=f"this model has the layers 1 to {model.n_layer - 1}")
        for item in self.params.vectors:
            if item.path is None:
                continue
            directions = ControlVector.load(item.path).directions
            if layer not in directions:
                raise OutOfRangeError(f"{item.path} has no direction for layer {layer}", hint=f"{list(directions)}")
            self.steering.vectors[item.label] = self._fitting(directions[layer], item.path)

    async def cleanup(self) -> None:
        """End what runs and give the model back; the last node that uses it frees it."""
        await super().cleanup()
        await self.generation.cleanup()

    # its sessions

    def gate(self, session_id: str) -> CancelGate:
        """Return the gate of a session's generation."""
        return self.generation.gate(session_id)

    def make_session_state(self, session_id: str) -> Steering:
        """Make what a session is steered by."""
        return self.steering.copy()

    async def end_session(self, session_id: str) -> None:
        """End what runs for a session, and forget it."""
        await self.generation.end_session(session_id)
        await super().end_session(session_id)

    def steering_of(self, session_id: str | None) -> Steering:
        """Return what a session is steered by, which begins with this if need be; without one, what new ones get."""
        return self.state(session_id, Steering) if session_id else self.steering

    # its work

    async def process(self, data: Data) -> Json:
        """Take a vector, coefficients or a prompt without a session; the answer to a prompt has "text" as well.

        Raises:
            InvalidArgumentError: The envelope is none of these.
            ClosedError: The node is not initialised.
        """
        parts = [part async for part in self.stream(data)]
        text = "".join(part.text for part in parts if isinstance(part, Text) and part.text != TEXT_END)
        answer = next(part for part in reversed(parts) if isinstance(part, Json))
        return Json({"text": text, **answer.value}) if "steering" in answer.value else answer

    async def stream(self, data: Data, session_id: str | None = None) -> AsyncIterator[Data]:
        """Take a vector, coefficients or a prompt of a session, and answer as the class says; raises as `process`."""
        if read_aux(data) is not None:
            await self.process_control_message(data, session_id)
            return
        if isinstance(data, Tensor):
            yield self._register(data, self.steering_of(session_id))
            return
        given = data.value if isinstance(data, Json) and isinstance(data.value, dict) else {}
        asks = not isinstance(data, Json) or any(isinstance(given.get(key), str) for key in _PROMPTS)
        if "coefficients" in given:
            answer = self._update(given["coefficients"], session_id)
            if not asks:
                yield answer
                return
        alone = session_id or f"alone-{uuid.uuid4().hex}"
        try:
            async with contextlib.aclosing(self.generation.stream(data, alone)) as envelopes:
                async for envelope in envelopes:
                    yield envelope
            yield self._report(self.steering_of(alone))
        finally:
            if session_id is None:
                await self.end_session(alone)

    async def process_control_message(self, message: Data, session_id: str | None = None) -> bool:
        """Take coefficients, or what `GenerationNode` takes there; whether it was one of these.

        Raises:
            InvalidArgumentError: The payload is not one for the port.
        """
        found = read_aux(message)
        if found is not None and found[0] == "coefficients":
            self._update(found[1].get("coefficients", found[1]), session_id)
            return True
        if isinstance(message, Json) and isinstance(message.value, dict) and "coefficients" in message.value:
            self._update(message.value["coefficients"], session_id)
            return True
        return await self.generation.process_control_message(message, session_id)

    # steering

    def _register(self, data: Tensor, steering: Steering) -> Json:
        if data.dtype != "f32":
            raise InvalidArgumentError(f"a steering vector of dtype {data.dtype}", hint="give float32 numbers")
        label = next((data.metadata[key] for key in ("emotion", "label") if data.metadata.get(key)), "default")
        if not isinstance(label, str):
            raise InvalidArgumentError(f"the label {label!r} of a steering vector", hint="give a text")
        steering.vectors[label] = self._fitting(data.array.ravel(), label)
        steering.coefficients.setdefault(label, 0.0)
        return Json({"status": "vector_registered", "label": label})

    def _fitting(self, vector: Any, name: str) -> Any:
        import numpy as np

        n_embd = self.generation.llama.model.n_embd
        if vector.shape != (n_embd,) or not np.isfinite(vector).all():
            raise AdapterError(
                f"the steering vector {name!r} has {vector.size} numbers", hint=f"give {n_embd} finite ones"
            )
        return vector.astype(np.float32)

    def _update(self, given: object, session_id: str | None) -> Json:
        new = {label: self._cut(value) for label, value in coefficients_of(given).items()}
        steering = self.steering_of(session_id)
        steering.coefficients.update(new)
        value = {"status": "coefficients_updated", "session": session_id, "coefficients": dict(steering.coefficients)}
        unknown = sorted(label for label in new if label not in steering.vectors)
        return Json({**value, "unknown": unknown} if unknown else value)

    def _cut(self, coefficient: float) -> float:
        most = self.params.max_coefficient
        return float(max(-most, min(most, coefficient)))

    def turn_options(self, session_id: str) -> Mapping[str, Any]:
        """Return what the generation of a session's next turn is told, and note it for the report."""
        steering, params = self.steering_of(session_id), self.params
        delta = steering_delta(steering.vectors, steering.coefficients, params.layer_norm_value)
        steering.delta = delta
        if delta is None or params.mode == "metadata":
            return {}
        return {"steering": {self._vector(delta.tobytes()): 1.0}}

    def _make_vector(self, delta: bytes) -> ControlVector:
        import numpy as np

        return ControlVector({self.params.layer: np.frombuffer(delta, np.float32)})

    def _report(self, steering: Steering) -> Json:
        params, delta = self.params, steering.delta
        norm = 0.0 if delta is None else float((delta.astype("float64") ** 2).sum() ** 0.5)
        return Json(
            {
                "steering": {
                    "layer": params.layer,
                    "layer_norm": params.layer_norm_value,
                    "delta_norm": norm,
                    "applied": params.mode == "control_vector" and delta is not None,
                    "coefficients": dict(sorted(steering.coefficients.items())),
                    "mode": params.mode,
                }
            }
        )


class _SteeredGeneration(GenerationNode):
    """Generates for a `SteerNode`."""

    def __init__(self, owner: SteerNode) -> None:
        given = owner.params.generation
        assert given is not None  # the parameters of the owner see to it
        params = {item.name: getattr(given, item.name) for item in dataclasses.fields(given)}
        super().__init__(NodeConfig(owner.config.node_id, GenerationNode.node_type, params))
        self._owner = owner

    @property
    def needs_taps(self) -> bool:
        """Whether its engine must be one that reads and steers activations."""
        return super().needs_taps or self._owner.params.mode == "control_vector"

    def generation_options(self, session_id: str) -> Mapping[str, Any]:
        """Steer as the owner says."""
        return {**super().generation_options(session_id), **self._owner.turn_options(session_id)}
