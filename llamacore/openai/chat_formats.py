"""Chat templates by the names that llama-cpp-python's `chat_format` gives them, for models that carry none."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import InvalidArgumentError

_CHATML = """\
{%- if tools %}
<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}

{% endif %}
You may call the functions whose signatures are given as JSON in <tools></tools>:
<tools>
{% for tool in tools %}
{{ tool | tojson }}
{% endfor %}
</tools>
For each call, write a JSON object with its name and arguments in <tool_call></tool_call>:
<tool_call>
{"name": <name>, "arguments": <arguments>}
</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% elif not (tools and loop.first and message.role == 'system') %}
<|im_start|>{{ message.role }}
{{ message.content or '' }}
{%- for call in message.tool_calls or [] %}
{%- if message.content or not loop.first %}{{ '\\n' }}{% endif -%}
<tool_call>
{"name": {{ call.function.name | tojson }}, "arguments": \
{{ call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}}
</tool_call>
{%- endfor -%}
<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}
<|im_start|>assistant
{% endif %}"""

_LLAMA_2 = """\
{%- set system = messages[0].content if messages[0].role == 'system' else none %}
{%- for message in messages %}
{%- if message.role == 'user' %}
{{- bos_token + '[INST] ' }}
{%- if system and loop.index0 == 1 %}{{ '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' }}{% endif %}
{{- message.content | trim + ' [/INST]' }}
{%- elif message.role == 'assistant' %}
{{- ' ' + message.content | trim + ' ' + eos_token }}
{%- elif message.role != 'system' or not loop.first %}
{{- raise_exception('it takes system first, then user and assistant, not ' + message.role) }}
{%- endif %}
{%- endfor %}"""

_LLAMA_3 = """\
{{- bos_token }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""

_GEMMA = """\
{{- bos_token }}
{%- set system = messages[0].content if messages[0].role == 'system' else none %}
{%- for message in messages %}
{%- if message.role != 'system' %}
{{- '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' }}
{%- if system and loop.index0 == 1 %}{{ system + '\\n\\n' }}{% endif %}
{{- message.content | trim + '<end_of_turn>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""

_MISTRAL = """\
{{- bos_token }}
{%- set system = messages[0].content if messages[0].role == 'system' else none %}
{%- for message in messages %}
{%- if message.role == 'user' %}
{{- '[INST] ' }}
{%- if system and loop.index0 == 1 %}{{ system + '\\n\\n' }}{% endif %}
{{- message.content + ' [/INST]' }}
{%- elif message.role == 'assistant' %}
{{- ' ' + message.content + eos_token }}
{%- elif message.role != 'system' or not loop.first %}
{{- raise_exception('it takes system first, then user and assistant, not ' + message.role) }}
{%- endif %}
{%- endfor %}"""

_ZEPHYR = """\
{%- for message in messages %}
{{- '<|' + message.role + '|>\\n' + message.content + eos_token + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""

_VICUNA = """\
{%- for message in messages %}
{%- if message.role == 'system' %}{{ message.content + '\\n\\n' }}
{%- elif message.role == 'user' %}{{ 'USER: ' + message.content + '\\n' }}
{%- else %}{{ 'ASSISTANT: ' + message.content + eos_token + '\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""

_ALPACA = """\
{%- for message in messages %}
{%- if message.role == 'system' %}{{ message.content + '\\n\\n' }}
{%- elif message.role == 'user' %}{{ '### Instruction:\\n' + message.content + '\\n\\n' }}
{%- else %}{{ '### Response:\\n' + message.content + '\\n\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"""

CHAT_FORMATS: Mapping[str, str] = {
    "chatml": _CHATML,
    "chatml-function-calling": _CHATML,
    "llama-2": _LLAMA_2,
    "llama-3": _LLAMA_3,
    "gemma": _GEMMA,
    "mistral-instruct": _MISTRAL,
    "zephyr": _ZEPHYR,
    "vicuna": _VICUNA,
    "alpaca": _ALPACA,
}
"""jinja2 sources by name."""


def chat_format(name: str) -> str:
    """Return the template of a name.

    Raises:
        InvalidArgumentError: There is none of that name; the message lists them.
    """
    if name not in CHAT_FORMATS:
        raise InvalidArgumentError(
            f"there is no chat_format {name!r}",
            hint="leave it out to use the model's own template, give chat_template= (jinja2), or use one of: "
            + ", ".join(CHAT_FORMATS),
        )
    return CHAT_FORMATS[name]
