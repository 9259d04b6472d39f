"""Small chat templates, written for these tests, that write tool calls as the model families do, one per form."""

from __future__ import annotations

from burnish.chat import ChatTemplate, load_template

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
_SHOWN = "{{ bos_token }}{% for t in tools or [] %}[TOOL {{ t | tojson }}]{% endfor %}"


def _template(opens: str, answer: str, end: str, calls: str, thought: str = "") -> str:
    """Return a template: `calls` writes m.tool_calls; every turn begins with its role and ends with `end`."""
    return (
        f"{_SHOWN}{{% for m in messages %}}{{% if m.role != 'assistant' %}}<|{{{{ m.role }}}}|>{{{{ m.content }}}}{end}"
        f"{{% else %}}{opens}{thought}{{% if m.tool_calls %}}{calls}{{% else %}}{answer}{end}{{% endif %}}{{% endif %}}"
        f"{{% endfor %}}{{% if add_generation_prompt %}}{opens}{{% endif %}}"
    )


_PLAIN = ("<|assistant|>", "{{ m.content }}", "<|end|>")
_CALL = '{"name": "{{ c.function.name }}", "%s": {{ c.function.arguments | tojson }}}'
_EACH = "{%% for c in m.tool_calls %%}%s{%% endfor %%}"
_COMMA = "{% if not loop.last %}, {% endif %}"
_ONE = "{% if m.tool_calls | length > 1 %}{{ raise_exception('one call a turn') }}{% endif %}"
_THINK = "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
_IDS = (
    "{% for c in m.tool_calls %}{% if c.id | length != 9 %}{{ raise_exception('nine characters') }}{% endif %}"
    "{% endfor %}"
)
_FENCED = (
    "<｜tool▁calls▁begin｜>"
    + _EACH
    % (
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{{ c.function.name }}\n```json\n{{ c.function.arguments }}\n```"
        "<｜tool▁call▁end｜>"
    )
    + "<｜tool▁calls▁end｜><|end|>"
)
_BARE = (
    "<｜tool▁calls▁begin｜>"
    + _EACH
    % ("<｜tool▁call▁begin｜>{{ c.function.name }}<｜tool▁sep｜>{{ c.function.arguments | tojson }}<｜tool▁call▁end｜>")
    + "<｜tool▁calls▁end｜><|end|>"
)


def _value(words: tuple[str, str, str], string: str, key: str) -> str:
    """Return a macro that writes a value: `words` stand for true, false and null."""
    true, false, none = words
    comma = "{% if not loop.last %}, {% endif %}"
    return (
        f"{{%- macro value(v, q='') -%}}{{%- if v is string -%}}{string}{{%- elif v is none -%}}{none}"
        f"{{%- elif v is boolean -%}}{{{{ '{true}' if v else '{false}' }}}}"
        f"{{%- elif v is mapping -%}}{{{{ '{{' }}}}{{% for k, w in v.items() %}}{key}: {{{{ value(w, q) }}}}{comma}"
        f"{{% endfor %}}{{{{ '}}' }}}}{{%- elif v is iterable -%}}[{{% for w in v %}}{{{{ value(w, q) }}}}{comma}"
        "{% endfor %}]{%- else -%}{{ v | tojson }}{%- endif -%}{%- endmacro -%}"
    )


_GEMMA_VALUE = _value(("true", "false", "null"), "{{ q + v + q }}", "{{ q + k + q }}")
_PYTHON_VALUE = _value(("True", "False", "None"), "{{ v | tojson }}", "{{ k | tojson }}")


def _gemma(begin: str, end: str, quote: str) -> str:
    arguments = (
        "{% for k, v in c.function.arguments.items() %}{{ k }}:{{ value(v, '"
        + quote
        + "') }}{% if not loop.last %},{% endif %}{% endfor %}"
    )
    call = f"{begin}call:{{{{ c.function.name }}}}{{{{ '{{' }}}}{arguments}{{{{ '}}' }}}}{end}"
    return _GEMMA_VALUE + _template("<|assistant|>", "{{ m.content }}", "<|end|>", _EACH % call + "<|end|>")


_PYTHON_CALL = (
    "{{ c.function.name }}({% for k, v in c.function.arguments.items() %}{{ k }}={{ value(v) }}"
    "{% if not loop.last %}, {% endif %}{% endfor %})" + _COMMA
)
_CHANNELS = _template(
    "<|start|>assistant",
    "<|channel|>final<|message|>{{ m.content }}",
    "<|end|>",
    _ONE
    + _EACH
    % (
        " to=functions.{{ c.function.name }}<|channel|>commentary json<|message|>"
        "{{ c.function.arguments | tojson }}<|call|>"
    ),
    "{% if m.thinking %}<|channel|>analysis<|message|>{{ m.thinking }}<|end|><|start|>assistant{% endif %}",
)

_TAGGED = (
    "\n<tool_call>\n<function={{ c.function.name }}>\n"
    "{% for k, v in c.function.arguments.items() %}<parameter={{ k }}>\n"
    "{{ v | tojson if v is mapping or (v is sequence and v is not string) else v | string }}\n</parameter>\n"
    "{% endfor %}</function>\n</tool_call>"
)
_KEYED = (
    "\n<tool_call>{{ c.function.name }}{% for k, v in c.function.arguments.items() %}\n<arg_key>{{ k }}</arg_key>\n"
    "<arg_value>{{ v if v is string else v | tojson }}</arg_value>{% endfor %}\n</tool_call>"
)
# name → (dialect, thoughts, source)
TEMPLATES: dict[str, tuple[str, str | None, str]] = {
    "chatml-tools": ("hermes", None, load_template("chatml-tools")),
    "hermes-think": (
        "hermes",
        "think",
        _template(
            *_PLAIN,
            "{{ m.content }}" + _EACH % f"\n<tool_call>\n{_CALL % 'arguments'}\n</tool_call>" + "<|end|>",
            _THINK,
        ),
    ),
    "llama-json": ("llama-json", None, _template(*_PLAIN, _ONE + _EACH % (_CALL % "parameters") + "<|eom_id|>")),
    "llama-pythonic": ("pythonic", None, _PYTHON_VALUE + _template(*_PLAIN, f"[{_EACH % _PYTHON_CALL}]<|end|>")),
    "lfm": (
        "pythonic",
        None,
        _PYTHON_VALUE
        + _template(*_PLAIN, f"{{{{ m.content }}}}<|tool_call_start|>[{_EACH % _PYTHON_CALL}]<|tool_call_end|><|end|>"),
    ),
    "mistral-list": (
        "mistral",
        None,
        _template(*_PLAIN, f"{_IDS}[TOOL_CALLS][{_EACH % (_CALL % 'arguments' + _COMMA)}]<|end|>"),
    ),
    "mistral-args": (
        "mistral",
        None,
        _template(
            *_PLAIN,
            "{{ m.content }}"
            + _EACH % "[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}"
            + "<|end|>",
        ),
    ),
    "deepseek-r1": ("deepseek", None, _template(*_PLAIN, _FENCED)),
    "deepseek-v3.1": ("deepseek", None, _template(*_PLAIN, _BARE)),
    "phi": (
        "phi",
        None,
        _template(*_PLAIN, f"<|tool_call|>[{_EACH % (_CALL % 'arguments' + _COMMA)}]<|/tool_call|><|end|>"),
    ),
    "gemma-4": ("gemma", None, _gemma("<|tool_call>", "<tool_call|>", '<|"|>')),
    "function-gemma": ("gemma", None, _gemma("<start_function_call>", "<end_function_call>", "<escape>")),
    "channels": ("channels", "channels", _CHANNELS),
    "qwen-xml": ("qwen-xml", None, _template(*_PLAIN, _EACH % _TAGGED + "<|end|>")),
    "glm": ("glm", None, _template(*_PLAIN, "{{ m.content }}" + _EACH % _KEYED + "<|end|>")),
    "json": ("json", None, _template(*_PLAIN, f"[{_EACH % (_CALL % 'arguments' + _COMMA)}]<|end|>")),
}
# what a string can't contain, because nothing escapes it
QUOTES = {
    "gemma-4": '<|"|>',
    "function-gemma": "<escape>",
    "qwen-xml": "</parameter>",
    "glm": "</arg_value>",
}


def tool_template(name: str) -> ChatTemplate:
    """Return one of the templates by its name."""
    return ChatTemplate(TEMPLATES[name][2], "2026-01-02", TOKENS)
