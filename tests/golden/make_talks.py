"""Writes tests/fixtures/talks/golden.json: which tokens of a conversation are the assistant's, by transformers'
apply_chat_template(return_assistant_tokens_mask=True), for templates in the styles of ChatML, Llama 3 and Llama 2.

    python tests/golden/make_talks.py        (transformers 5.23)

The templates are written for this test; each marks with {% generation %} what the assistant says, its end of turn in.
"""

import json

from transformers import PreTrainedTokenizerFast

import build

OUT = build.FIXTURES / "talks"

CHATML = """{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' %}
{%- generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}
{%- else %}
{{- message.content + '<|im_end|>' }}
{%- endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

HEADERS = """{{- bos_token }}
{%- for message in messages %}
{{- '[[' + message.role + ']]\\n\\n' }}
{%- if message.role == 'assistant' %}
{%- generation %}{{ message.content | trim + eos_token }}{% endgeneration %}
{%- else %}
{{- message.content | trim + eos_token }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '[[assistant]]\\n\\n' }}
{%- endif %}"""

INST = """{%- for message in messages %}
{%- if message.role == 'user' %}
{{- bos_token + '[INST] ' + message.content.strip() + ' [/INST]' }}
{%- elif message.role == 'assistant' %}
{%- generation %}{{ ' ' + message.content.strip() + eos_token }}{% endgeneration %}
{%- endif %}
{%- endfor %}"""

TALKS = [
    [("user", "What is a retort?"), ("assistant", "A vessel."), ("user", "And?"), ("assistant", "An answer, too.")],
    [
        ("system", "You answer briefly."),
        ("user", "Say yes."),
        ("assistant", "yes"),
        ("user", "Say yes, yes."),
        ("assistant", "yes, yes"),
        ("user", "Say nothing."),
        ("assistant", ""),
    ],
    [("user", "Twice?"), ("assistant", " Once. \n"), ("user", "\u00e9t\u00e9 \U0001f600"), ("assistant", "\u00e9t\u00e9")],
    [("user", "One."), ("assistant", "Two.")],
]


def main():
    build.set_up()
    folder = build.fresh(OUT)
    cases = []
    for name, templates in (("llama", (CHATML, HEADERS)), ("llama2", (HEADERS, INST))):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(build.FIXTURES / "score" / name)
        for template in templates:
            for talk in TALKS:
                if template is INST and talk[0][0] == "system":
                    continue
                messages = [{"role": role, "content": content} for role, content in talk]
                made = tokenizer.apply_chat_template(
                    messages, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
                )
                case = {"tokenizer": name, "template": template, "messages": messages}
                cases.append(case | {"ids": made["input_ids"], "mask": made["assistant_masks"]})
    (folder / "golden.json").write_text(json.dumps(cases, ensure_ascii=True, indent=0) + "\n")
    build.readable(folder)
    print(f"{len(cases)} cases, {build.megabytes(OUT):.2f} MB in {OUT}")


if __name__ == "__main__":
    main()
