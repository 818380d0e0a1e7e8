"""Every error this package raises on purpose, in one tree.

LlamaCoreError
├── InvalidArgumentError      (ValueError)         an argument that upstream must not see
│   ├── GrammarError                               GBNF, trigger pattern or JSON schema that does not parse
│   └── TemplateError                              chat template that does not render
├── OutOfRangeError           (IndexError)         token, row, layer or sequence number outside its range
├── OutputError               (LookupError)        logits or embeddings that were never computed
├── UnsupportedError          (RuntimeError)       this model, memory or build cannot do that
├── ModelLoadError            (OSError)            a model file could not be loaded
│   ├── ModelNotFoundError    (FileNotFoundError)
│   ├── InvalidModelError     (ValueError)         the file is not a sound GGUF model
│   └── LoadCancelledError                         the progress callback said stop
├── ContextError              (RuntimeError)       a context could not be created
├── DecodeError               (RuntimeError)       decode or encode failed
│   ├── NoKvSlotError                              the memory has no room for the batch
│   └── AbortedError                               cancelled while it computed
├── StructuredOutputError     (ValueError)         a reply is not what its response format asks for
│   └── IncompleteOutputError                      it was cut off before its end
├── ToolError                 (RuntimeError)       a tool cannot be called, or is called without end
├── SamplingError             (RuntimeError)       a sampler chain selected no token
├── StateError                (RuntimeError)       a saved state does not fit or is damaged
├── AdapterError              (RuntimeError)       LoRA adapter or control vector that does not fit
├── QuantizeError             (RuntimeError)       quantisation failed
├── ClosedError               (RuntimeError)       used after close()
├── BusyError                 (RuntimeError)       in use by another thread right now
│   └── QueueFullError                             as many requests are waiting as may wait
├── ContextFullError          (RuntimeError)       a text does not fit into the context any more
├── BrokenError               (RuntimeError)       a native assertion failed in it: only close() is left
├── CompanionError            (RuntimeError)       a companion set cannot be installed or used
│   ├── DownloadError         (OSError)            it could not be fetched
│   ├── DamagedSetError       (ValueError)         it is not what its hashes say, or no companion set at all
│   └── IncompatibleSetError                       it is for another platform, llama.cpp or system
│       └── PlatformNotPublishedError              a release has nothing for this platform
├── RpcError                  (ConnectionError)    a device on another machine cannot be reached, or was lost
├── OutOfMemoryError          (MemoryError)        native memory ran out
└── NativeError               (RuntimeError)       an unforeseen exception of the native code
"""

from __future__ import annotations

from collections.abc import Sequence


class LlamaCoreError(Exception):
    """Root of the tree.

    Attributes:
        message: What was asked and what went wrong, one line.
        hint: What to do next, or an empty string.
        native_log: The warnings and errors that the native code logged during the failed call, oldest first.
    """

    def __init__(self, message: str, *, hint: str = "", native_log: Sequence[str] = ()) -> None:
        self.message = message
        self.hint = hint
        self.native_log = tuple(native_log)
        parts = [message]
        if self.native_log:
            parts.append("native log: " + " | ".join(line.replace("\n", " ") for line in self.native_log[-4:]))
        if hint:
            parts.append(hint)
        super().__init__(". ".join(part.rstrip(". ") for part in parts))


class InvalidArgumentError(LlamaCoreError, ValueError):
    """An argument is outside what the call accepts; nothing was done."""


class GrammarError(InvalidArgumentError):
    """A GBNF grammar, a trigger pattern or a JSON schema does not parse."""


class TemplateError(InvalidArgumentError):
    """A chat template does not parse or refuses the conversation."""


class OutOfRangeError(LlamaCoreError, IndexError):
    """A token, row, layer or sequence number is outside its range."""


class OutputError(LlamaCoreError, LookupError):
    """Logits or embeddings were asked for that the last decode did not compute."""


class UnsupportedError(LlamaCoreError, RuntimeError):
    """This model, this memory or this build of the libraries cannot do what was asked."""


class ModelLoadError(LlamaCoreError, OSError):
    """A model file could not be loaded."""


class ModelNotFoundError(ModelLoadError, FileNotFoundError):
    """There is no file at the path given."""


class InvalidModelError(ModelLoadError, ValueError):
    """The file is damaged, is not GGUF, or describes a model that cannot be run."""


class LoadCancelledError(ModelLoadError):
    """The progress callback returned False."""


class ContextError(LlamaCoreError, RuntimeError):
    """A context could not be created."""


class DecodeError(LlamaCoreError, RuntimeError):
    """decode() or encode() failed.

    Attributes:
        code: The return value of llama_decode or llama_encode.
    """

    code: int = 0


class NoKvSlotError(DecodeError):
    """The memory has no room for the batch; it is as it was before the call."""


class AbortedError(DecodeError):
    """The computation was cancelled; micro-batches that were done stay in the memory."""


class StructuredOutputError(LlamaCoreError, ValueError):
    """A reply is not what its response format asks for.

    Attributes:
        text: The reply's text.
    """

    text: str = ""


class IncompleteOutputError(StructuredOutputError):
    """A reply was cut off before it was what its response format asks for; `text` has what there is of it."""


class ToolError(LlamaCoreError, RuntimeError):
    """A tool cannot be called with these arguments, or a model calls tools and never answers.

    Attributes:
        reply: The last reply (`llamacore.llama.ChatReply`) when a model never answered, else None.
    """

    reply: object = None


class SamplingError(LlamaCoreError, RuntimeError):
    """A sampler chain selected no token."""


class StateError(LlamaCoreError, RuntimeError):
    """A saved state is damaged or belongs to another model or context."""


class AdapterError(LlamaCoreError, RuntimeError):
    """A LoRA adapter or control vector could not be loaded or does not fit the model."""


class QuantizeError(LlamaCoreError, RuntimeError):
    """Quantisation failed; no output file was left."""


class ClosedError(LlamaCoreError, RuntimeError):
    """The object, or the object it depends on, was closed."""


class BusyError(LlamaCoreError, RuntimeError):
    """Another thread is using the object right now, or something still depends on it."""


class QueueFullError(BusyError):
    """As many requests wait for their turn as the engine lets wait; this one was not taken."""


class ContextFullError(LlamaCoreError, RuntimeError):
    """A generation reached the end of its context and was asked not to stop there quietly."""


class BrokenError(LlamaCoreError, RuntimeError):
    """A native assertion failed in this object earlier; it can only be closed."""


class CompanionError(LlamaCoreError, RuntimeError):
    """A companion set of libraries cannot be installed or used; what was there before is unchanged."""


class DownloadError(CompanionError, OSError):
    """A companion set could not be fetched; trying again goes on where it stopped."""


class DamagedSetError(CompanionError, ValueError):
    """An archive or a folder is not what its hashes say, or is no companion set at all."""


class IncompatibleSetError(CompanionError):
    """A companion set is sound but made for another platform, llama.cpp, llamacore or C library."""


class PlatformNotPublishedError(IncompatibleSetError):
    """A release has nothing for this platform; the message lists what it has."""


class RpcError(LlamaCoreError, ConnectionError):
    """A server that offers its devices cannot be reached, speaks another protocol, or was lost while it was used."""


class OutOfMemoryError(LlamaCoreError, MemoryError):
    """The native code ran out of memory."""


class NativeError(LlamaCoreError, RuntimeError):
    """The native code raised an exception that nothing more precise describes."""
