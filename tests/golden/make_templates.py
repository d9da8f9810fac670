#!/usr/bin/env python3
"""Renders our chat templates with transformers' own Jinja environment, for tests/text.rs.

    python tests/golden/make_templates.py        (transformers 5.23, jinja2 3.1.6)

Writes tests/fixtures/templates/<name>.jinja and golden.json. The templates are written for this test
in the styles in use; none is copied from a model.
"""

import json
import pathlib
import re

import transformers.utils.chat_template_utils as utils

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE.parent / "fixtures" / "templates"
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}

TEMPLATES = {
    "chatml": """{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou answer briefly.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""",
    "headers": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "inst": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'].strip() + '\\n\\n' %}{% else %}{% set loop_messages = messages %}{% set system_message = '' %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 %}{% set content = system_message + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + eos_token }}{% endif %}{% endfor %}""",
    "renames": """{{ bos_token }}
{% if messages[0]['role'] == 'system' %}
  {% set first_user_prefix = messages[0]['content'] + '\\n\\n' %}
  {% set loop_messages = messages[1:] %}
{% else %}
  {% set first_user_prefix = "" %}
  {% set loop_messages = messages %}
{% endif %}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}{{ item['text'] | trim }}{%- endfor -%}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\\n'}}
{%- endif -%}
""",
    "bars": """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
""",
    "names": """{%- set ns = namespace(system='', turns=0, last_user=-1, seen=[]) -%}
{%- for message in messages -%}
    {%- if message['role'] == 'system' -%}
        {%- set ns.system = ns.system ~ (('\\n' ~ message['content']) if not loop.first else message['content']) -%}
    {%- elif message['role'] == 'user' -%}
        {%- set ns.last_user = loop.index0 -%}
        {%- set ns.turns = ns.turns + 1 -%}
        {%- set ns.seen = ns.seen + [message.content|length] -%}
    {%- endif -%}
{%- endfor -%}
{{- 'turns=' ~ ns.turns ~ ' last=' ~ ns.last_user ~ ' seen=' ~ ns.seen ~ ' half=' ~ ns.turns / 2 ~ '\\n' -}}
{%- for message in messages[1:] if message.role != 'system' -%}
    {{- ('A' if loop.first else 'Z' if loop.last else 'M') ~ loop.index0 ~ ':' ~ loop.length ~ ' ' ~ message['role'][:1]|upper ~ message['role'][1:] ~ ' ' -}}
    {{- (message.content | replace('\\n', '\\\\n')) ~ '|' ~ message.content.split()[-1:]|join(',') ~ '\\n' -}}
{%- else -%}
    {{- 'nothing after the first\\n' -}}
{%- endfor -%}
{{- messages[::-1][0].content[-3:] ~ messages[-1].role.title() ~ (messages|length * 2) ~ ('=' * 5) ~ "\\n" -}}
{%- if ns.system is defined and ns.system -%}{{ ns.system.upper() ~ none ~ true ~ 1.0 ~ undefined_thing }}{%- endif -%}
{{ messages | map(attribute='role') | join(' ') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ tools is none }} {{ messages[0].name is defined }} {{ messages[0].get('name', 'no name') }} {{ 'x' in messages[-1].content }}
""",
    "json": """{%- set cfg = {'name': 'fünf', 'args': {'q': "it's <b>\\"bold\\"</b> & é", 'n': [1, 2.5, true, none]}, 'empty': {}} -%}
{{ cfg | tojson }}
{{ cfg | tojson(indent=2) }}
{{ cfg.args | tojson(ensure_ascii=True, separators=(',', ':'), sort_keys=True) }}
{% for key, value in cfg.items() %}{{ key }}={{ value }};{% endfor %}

{%- for message in messages %}
{{ message | tojson }}
{%- endfor %}
{{ messages | tojson(indent=4) }}
""",
    "loops": """{%- for message in messages %}
{%- if message.role == 'system' %}{% continue %}{% endif %}
{%- if loop.index > 3 %}{{ '...' }}{% break %}{% endif %}
{%- for line in message.content.split('\\n') %}
{%- if not line.strip() %}{% continue %}{% endif %}
> {{ line.rstrip() }}
{%- endfor %}
{%- endfor %}
{% macro turn(role, text='none given', sep=': ') %}[{{ role ~ sep ~ text }}]{% endmacro %}
{{ turn('user', messages[0].content|trim) }} {{ turn(role='x') }}
{% set block %}
  inner {{ messages|length }}
{% endset %}
{{ block | trim }}{# a comment #}
  {%+ if true %}kept indent{% endif +%}
{% raw %}{{ not rendered }}{% endraw %}
""",
    "marked": """{%- for message in messages %}
{%- if message.role == 'assistant' %}
<|assistant|>
{% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}
{% else %}
<|{{ message.role }}|>
{{ message.content }}
{%- endif %}
{%- endfor %}
{% if add_generation_prompt %}<|assistant|>
{% endif %}
""",
    "thinking": """{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' and '</think>' in content %}
        {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- if loop.index0 > 1 or loop.last %}{{- '<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' }}{%- endif %}
    {%- endif %}
    {{- '<|' ~ message.role ~ '|>' ~ content ~ ('' if content.endswith('\\n') else '\\n') }}
    {%- if content.startswith('/no') and loop.nextitem is defined and loop.nextitem.role == 'assistant' %}{{- '<quiet>' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}""",
    "long": "{% for m in messages %}\n" + ("A long preamble that many templates carry, with { braces } and %-signs.\n" * 12)
    + "    {%- if m.role == 'user' %}" + ("words without end " * 40) + "   \n    {%- endif %}\n{{ m.content }}\n{% endfor %}",
}

CONVERSATIONS = {
    "one": [{"role": "user", "content": "What is a retort?"}],
    "system": [
        {"role": "system", "content": "You are a chemist."},
        {"role": "user", "content": "What is a retort?"},
    ],
    "turns": [
        {"role": "system", "content": " Be kind.\n"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello! How can I help?"},
        {"role": "user", "content": "Explain\nreverse KL."},
        {"role": "assistant", "content": "<think>\nmode seeking\n</think>\n\nIt seeks modes."},
        {"role": "user", "content": "/no more"},
    ],
    "no_system_turns": [
        {"role": "user", "content": "Hi", "name": "Ann"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye  "},
        {"role": "assistant", "content": "<think>x</think>So long"},
    ],
    "unicode": [
        {"role": "user", "content": "Größe 數學 \U0001f600 e\u0301 \u00a0nbsp\u2028ls \u001c"},
        {"role": "assistant", "content": "ﬁ ligature, ß, İ"},
    ],
    "spaces": [
        {"role": "user", "content": "  leading and trailing  \n\n"},
        {"role": "assistant", "content": "\n\ttabs\t\r\nand returns\r\n"},
        {"role": "user", "content": "<b>&amp; \"quotes\" 'single' \\back"},
    ],
    "empty": [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}],
    "wrong_order": [{"role": "assistant", "content": "first"}, {"role": "user", "content": "second"}],
}


def render(template, messages, generation):
    (text,), _ = utils.render_jinja_template(
        conversations=[messages], chat_template=template, add_generation_prompt=generation, **TOKENS
    )
    return text


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    cases = []
    for name, template in TEMPLATES.items():
        (OUT / f"{name}.jinja").write_text(template, encoding="utf-8", newline="")
        for talk, messages in CONVERSATIONS.items():
            for generation in (False, True):
                try:
                    text, error = render(template, messages, generation), None
                except Exception as e:  # a template's own refusal
                    text, error = None, str(e)
                if text is not None and name == "headers":
                    # The day of the golden run is not the day of the test.
                    text = re.sub(r"Today: \d\d \w{3} \d{4}", "Today: DATE", text)
                cases.append(
                    {"template": name, "conversation": talk, "generation": generation, "text": text, "error": error}
                )
    golden = {"tokens": TOKENS, "conversations": CONVERSATIONS, "cases": cases}
    (OUT / "golden.json").write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
