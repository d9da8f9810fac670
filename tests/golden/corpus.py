"""The words of the score goldens: what the tokenizers are trained on, and the rows."""

TRAINING = """\
A retort is a glass vessel with a long neck that bends down and away.
What is heated in the vessel rises as vapour, cools in the neck, and drips out clear.
The old chemists used it to part spirit from wine and the scent from the rose.
To retort is also to answer, and to answer quickly; the one word serves for both.
A large model is slow to ask and dear to keep; a small model is neither.
The small model answers, the large model weighs the answer, and the small model learns.
When the small model learns from its own answers it learns where it goes wrong.
When it learns from the answers of another it learns only what it was shown.
How many drops fill the glass? Ten drops fill the glass, and the tenth runs over.
What is the name of the river? The river has no name on the map of 1871.
Where does the water go when the day is hot? It rises, and in the evening it comes down.
She said: "I'll weigh it twice, you'll weigh it once, and we'll see who's right."
He didn't answer; he wasn't there, and they've not seen him since 1902.
The café at the corner sells crème brûlée, naïve little cakes, and Ärger für alle.
def answer(question):
    return "the " + question + " is the answer"
There are 12 months, 52 weeks, 365 days, and 8760 hours, give or take 6.
The answer is the answer; the question is the question; the rest is distillation.
"""

TEXTS = [
    "The retort answers the question.",
    "How many drops fill the glass? 12, then 365.",
    "  two spaces before, three   between, one after ",
    "tabs\tand\nnewlines\n\n\tand a carriage\r\nreturn",
    "naïve café, crème brûlée; Ärger für Œuvre",
    "cafe\u0301 with a combining accent",
    "一个小模型向大模型学习。",
    "drops 💧 and a family 👩‍👩‍👧 and a flag 🇦🇹",
    "I'll, you'll, we've, DON'T",
    " ",
    "a",
    "\u00a0\u200bzero width\ufeff",
    "x" * 40,
]

PROMPTS = [
    ("What is a retort?", " A glass vessel with a long neck."),
    ("How many weeks are there?", "52"),
    ("Say nothing.", ""),
    ("Say a space.", " "),
    ("用中文回答:", "好的 👍"),
    ("Code:\n", "\tdef f():\n\t\treturn 1\n"),
]

CHATS = [
    [("user", "What is a retort?"), ("assistant", "A glass vessel, and an answer.")],
    [
        ("system", "Answer in one word."),
        ("user", "Where does the water go?"),
        ("assistant", "Up."),
        ("user", "And in the evening?"),
        ("assistant", "Down 💧"),
    ],
    [("user", "Count:\n1\n2"), ("assistant", "\n3\n")],
    [("user", ""), ("assistant", "")],
]

# In the style of ChatML; the wording of the default system turn is ours.
CHAT_TEMPLATE = """\
{%- if messages[0]['role'] != 'system' -%}
    {{- '<|im_start|>system\\nYou answer briefly and plainly.<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
