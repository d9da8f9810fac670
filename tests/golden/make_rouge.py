"""Writes tests/fixtures/rouge/: NLTK's stems and rouge_score's Rouge-L.

`stems.txt`: a word and its stem a line, by PorterStemmer in the mode that rouge_score takes. The words are
stems with every ending of the rules, once and twice; the irregular ones; runs of y, digits, short words.
`pairs.jsonl`: {"references", "reply", "rouge_l", "first"}: the best F over the references, and that of the
first alone; prose, random words, and texts with accents, other scripts, nothing in them.
"""

import json
import random

from nltk.stem.porter import PorterStemmer
from rouge_score import rouge_scorer

import build

ROOTS = """
    abil adopt agree allow analog angul archaeolog bowdl bl capit car cat cease child clear commun condit
    conflat consign control credit cr cry defens depend die differ digit dis electr employ enjoy exact fail
    fall falsif fil fizz fl flat fly form fr generic geo glad good gyr happ hesit hiss homolog hop hope infer
    inn irrit king lie load log logic mat mill mod motor nation oper pan pars pit plast play poni predic
    prob prov quick quiz radic rat rel relat replac rev revol roll sens siz sk sky small spi spy st string
    syzyg tan tax th theo ti tr triplic tr troubl tun ty unit val vex vietnam vil vow wax wr y yell zz
""".split()
ENDINGS = """
    s es ies ied ed eed ing ings y ly ally ally's sses ss e er ers ee al ational tional ence enci ency ance
    anci ancy izer ize ized izing abli ably ible ibly bly entli ently eli ely ousli ously ization ation
    ations ator alism iveness fulness fully fulli ousness aliti ality iviti ivity biliti bility logi logy
    icate icated ative alize iciti icity ical ically ful ness able ant ement ements ment ent ion ions sion
    tion ou ism ate ated iti ity ous ive ives ll lled lling at bl iz tt ttes ogy
""".split()
IRREGULAR = """
    sky skies dying lying tying news innings inning outings outing cannings canning howe proceed exceed
    succeed proceeds exceeding died dies dyed lies lied ties tied spied spies flies this bias exactly gas
    yes was has its as is us by aye eye eyes yyyy yyyyy yyyyed yyying ayyy byyye sing sings singing red
    bleed feed freed agreed rate rates cease ceased controlling hopping hoping falling filing failing
    conflated troubled sized hissing fizzed 1990s 2nd 3rds 10ing 7ies 4ied x1y2ed abc123ness theology geology
    archaeology apology ology logi alli ealli finally totally rally really usually wally generally
""".split()

PROSE = """
    A retort is a vessel with a long neck, bent downwards, for distilling liquids over a fire.
    The student learns from its own replies; the teacher only says how likely each of them is.
    Dying skies were lying over Howe's canning factory, which exceeds exactly this bias.
    She was happily running, hopping and skipping through relational databases in 1984.
    Sensitivity analyses of electrical conductivity rationalized the vietnamization hypothesis.
    Il caf\u00e9 \u00e8 na\u00efve: r\u00e9sum\u00e9, \u0130stanbul, Stra\u00dfe, \u212aelvin and \ufb01nally 10% of 3.14!
    \u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u4f60\u597d\u4e16\u754c, \u3053\u3093\u306b\u3061\u306f.
    Don't, won't, can't: contractions' apostrophes split words_with_underscores and hyphen-ated ones.
    It's news; the innings' outings proceeded to succeed, conditionally and differently.
    AAA aaa AaA 123 12 3 a1 1a A-1-B  \t tabs\nnew lines\r\nand\u00a0spaces\u2003of all kinds
""".strip().split("\n")


def stems(out):
    rng = random.Random(1)
    words = set(IRREGULAR)
    for root in ROOTS:
        words.update(root + ending for ending in ENDINGS)
        for _ in range(20):
            words.add(root + rng.choice(ENDINGS) + rng.choice(ENDINGS))
    for _ in range(1500):
        words.add("".join(rng.choice("aeiouybcdlnstxz1") for _ in range(rng.randint(1, 12))))
    words = sorted(w for w in words if w.isalnum() and w.isascii())
    words = sorted(rng.sample(words, 9000)) + [w for w in IRREGULAR]
    stemmer = PorterStemmer()
    out.write_text("".join(f"{w} {stemmer.stem(w)}\n" for w in words))


def texts(rng):
    words = " ".join(PROSE).split()
    yield from PROSE
    yield from ["", " ", "...", "\u4f60\u597d", "a", "the the the", "The", "\u212a", "\u0130", "x" * 300]
    while True:
        kind = rng.random()
        if kind < 0.4:
            line = rng.choice(PROSE).split()
            yield " ".join(w for w in line if rng.random() < 0.7)
        elif kind < 0.6:
            line = rng.choice(PROSE).split()
            rng.shuffle(line)
            yield " ".join(line)
        elif kind < 0.8:
            yield " ".join(rng.choice(words) for _ in range(rng.randint(1, 30)))
        elif kind < 0.95:
            yield " ".join(rng.choice("abcd") for _ in range(rng.randint(1, 180)))
        else:
            yield "".join(chr(rng.choice([rng.randint(32, 126), rng.randint(160, 0x24FF)])) for _ in range(60))


def pairs(out):
    rng = random.Random(2)
    source = texts(rng)
    fixed = [next(source) for _ in range(20)]
    cases = [([a], b) for a in fixed for b in fixed]
    for _ in range(500):
        references = [next(source) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
        reply = next(source) if rng.random() < 0.7 else rng.choice(fixed)
        cases.append((references, reply))
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    with out.open("w") as f:
        for references, reply in cases:
            row = {
                "references": references,
                "reply": reply,
                "rouge_l": float(scorer.score_multi(references, reply)["rougeL"].fmeasure),
                "first": float(scorer.score(references[0], reply)["rougeL"].fmeasure),
            }
            f.write(json.dumps(row) + "\n")


def main():
    folder = build.FIXTURES / "rouge"
    folder.mkdir(parents=True, exist_ok=True)
    stems(folder / "stems.txt")
    pairs(folder / "pairs.jsonl")


if __name__ == "__main__":
    main()
