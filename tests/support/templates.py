"""Chat templates that behave like well-known ones, with the markers of the tests' tokenizer."""

from __future__ import annotations

CHATML_TURN = "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
OPENS = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"

# like Qwen3's: the last answer contains a thought, possibly empty; thoughts are removed from earlier answers
HYBRID = (
    """\
{%- set last = namespace(user=-1) -%}
{%- for m in messages %}{% if m.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}{% endfor -%}
{%- for m in messages -%}
{%- if m.role != 'assistant' %}"""
    + CHATML_TURN
    + """{% else -%}
{%- set thought, answer = '', m.content -%}
{%- if m.reasoning_content %}{% set thought = m.reasoning_content %}
{%- elif '</think>' in m.content -%}
{%- set thought = m.content.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}
{%- set answer = m.content.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
{{ '<|im_start|>assistant\\n' }}
{%- if loop.index0 > last.user %}{{ '<think>\\n' + thought + '\\n</think>\\n\\n' }}{% endif -%}
{{ answer + '<|im_end|>\\n' }}
{%- endif %}{% endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"""
)

# like Phi's: a finished chat ends with an extra end token, and turns are stripped
TWICE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content.strip() + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% else %}{{ eos_token_of_texts }}{% endif %}"
).replace("eos_token_of_texts", "'<|endoftext|>'")

# like gpt-oss's: channels, with thoughts in a separate one, and a different end token for the last answer
CHANNELS = """\
{%- for m in messages -%}
{%- if m.role != 'assistant' %}{{ '<|im_start|>' + m.role + '<jupyter_code>' + m.content + '<|im_end|>' }}
{%- else -%}
{%- set newest = loop.last and not add_generation_prompt -%}
{%- if newest and 'thinking' in m -%}
{{ '<|im_start|>assistant<jupyter_text>analysis<jupyter_code>' + m.thinking + '<|im_end|>' }}
{%- endif -%}
{{ '<|im_start|>assistant<jupyter_text>final<jupyter_code>' + m.content }}
{{- '<|endoftext|>' if newest else '<|im_end|>' }}
{%- endif %}{% endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"""

# like Command R's: the response and its turn have different end tokens
BRACKETED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n<jupyter_text>' + m.content }}"
    "{{ '<jupyter_output><|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<jupyter_text>' }}{% endif %}"
)

# like the first Gemma's: rejects system turns
STRICT = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + (
    "{% for m in messages %}" + CHATML_TURN + "{% endfor %}" + OPENS
)

# not visible in a single exchange: numbered turns, and a note above long chats
NUMBERED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + ' ' + loop.index|string + '\\n' + m.content }}"
    "{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant ' }}{{ messages|length + 1 }}{{ '\\n' }}{% endif %}"
)
LATE = (
    "{% if messages|selectattr('role', 'equalto', 'user')|list|length > 6 %}"
    "{{ '<|im_start|>system\\nA long chat.<|im_end|>\\n' }}{% endif %}"
    "{% for m in messages %}" + CHATML_TURN + "{% endfor %}" + OPENS
)

# gpt-oss's channels with its own markers
HARMONY = (
    CHANNELS.replace("<jupyter_text>", "<|channel|>")
    .replace("<jupyter_code>", "<|message|>")
    .replace("<|im_start|>", "<|start|>")
    .replace("<|im_end|>", "<|end|>")
    .replace("<|endoftext|>", "<|return|>")
)
