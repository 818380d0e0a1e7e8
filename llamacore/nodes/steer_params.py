"""Parameters of `SteerNode`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from .params import BackendParams, GenerationNodeParams
from .reading import Params, choice, invalid, real, text, whole

if TYPE_CHECKING:
    from typing_extensions import Self

_SHARED = ("model_path", "backend", "context_size", "batch_size", "system_prompt")


@dataclass(frozen=True)
class SteeringVectorParams(Params):
    """A vector that steers.

    Attributes:
        label: Its name.
        coefficient: How much of it is added at first; negative for its opposite.
        path: A control vector file to take it from, so that nobody has to send it: its direction at `layer`.
    """

    label: str = ""
    coefficient: float = 0.0
    path: str | None = None

    def __post_init__(self) -> None:
        text("label", self.label, empty=False)
        real("coefficient", self.coefficient, float("-inf"))
        text("path", self.path, or_none=True, empty=False)


@dataclass(frozen=True)
class SteerNodeParams(Params):
    """Parameters of `SteerNode`.

    Attributes:
        model_path: A GGUF file; "demo" for the demo model of the package.
        backend: Where and how it is computed.
        context_size: Tokens of context (`n_ctx`), which the turns that run at a time share.
        batch_size: Most tokens of a prompt that are submitted at a time (`n_batch`).
        layer: The layer to whose output the vectors are added, counted from 0; 0 itself cannot be steered.
        layer_norm_value: What vectors are multiplied by, beside their coefficients (`layer_norm`): about the length of
            the layer's outputs, so that a coefficient is a share of it.
        vectors: At least one.
        max_coefficient: Coefficients are cut to this, up and down.
        mode: "control_vector" adds the vectors; "metadata" only reports what it would add.
        generation: Parameters of `GenerationNode`; what it lacks is taken from here.
        system_prompt: What every session begins with.
    """

    ALIASES: ClassVar[Mapping[str, str]] = {
        "n_ctx": "context_size", "n_batch": "batch_size", "layer_norm": "layer_norm_value",
    }  # fmt: skip
    NESTED: ClassVar[Mapping[str, type[Params]]] = {"backend": BackendParams, "generation": GenerationNodeParams}

    model_path: str = ""
    backend: BackendParams = field(default_factory=BackendParams)
    context_size: int = 4096
    batch_size: int = 512
    layer: int = 21
    layer_norm_value: float = 14.7
    vectors: Sequence[SteeringVectorParams] = ()
    max_coefficient: float = 1.0
    mode: Literal["control_vector", "metadata"] = "control_vector"
    generation: GenerationNodeParams | None = None
    system_prompt: str | None = None

    def __post_init__(self) -> None:
        self._require_blocks()
        text("model_path", self.model_path, empty=False)
        whole("context_size", self.context_size, 1)
        whole("batch_size", self.batch_size, 1)
        whole("layer", self.layer, 1)
        real("layer_norm_value", self.layer_norm_value, 0, above=True)
        real("max_coefficient", self.max_coefficient, 0, above=True)
        given: object = self.vectors
        if not isinstance(given, (list, tuple)) or not given:
            raise invalid(f"vectors={given!r}", 'give at least one, {"label": "...", "coefficient": 0.0}')
        for number, vector in enumerate(self.vectors):
            if not isinstance(vector, SteeringVectorParams):
                raise invalid(f"vectors[{number}]={vector!r}", "give an object")
        labels = [vector.label for vector in self.vectors]
        if len(set(labels)) < len(labels):
            raise invalid(f"vectors={labels!r}", "labels are unique")
        choice("mode", self.mode, ("control_vector", "metadata"))
        text("system_prompt", self.system_prompt, or_none=True)
        if self.generation is None:
            own = {name: getattr(self, name) for name in _SHARED}
            object.__setattr__(self, "generation", GenerationNodeParams(**own))
        elif self.generation.model_path != self.model_path:
            raise invalid(
                f"generation.model_path={self.generation.model_path!r}",
                f"it is the model that is steered, {self.model_path!r}: leave it out",
            )

    @classmethod
    def read(cls, given: Any, at: str = "") -> tuple[Self, list[str]]:
        """Make them of an object as JSON has it; see `Params.read`."""
        if not isinstance(given, Mapping):
            return super().read(given, at)
        values, warnings = dict(given), []
        if isinstance(values.get("vectors"), (list, tuple)):
            read = []
            for number, item in enumerate(values["vectors"]):
                vector, more = SteeringVectorParams.read(item, f"{at}vectors[{number}].")
                read.append(vector)
                warnings += more
            values["vectors"] = tuple(read)
        if isinstance(values.get("generation"), Mapping):
            values["generation"] = _inherited(values["generation"], values)
        made, more = super().read(values, at)
        return made, warnings + more


def _inherited(inner: Mapping[str, Any], outer: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of the generation, with what only the node has."""
    aliases = GenerationNodeParams.ALIASES
    values = {key: value for key, value in inner.items() if not (key == "model_path" and value == "")}
    given = {aliases.get(key, key) for key in values}
    for key, value in outer.items():
        name = aliases.get(key, key)
        if name in _SHARED and name not in given:
            values[name] = value
    return values
