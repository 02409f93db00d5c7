"""The output grammar as EBNF (a stand-in until the real one is merged)."""

from __future__ import annotations


def answer_grammar(image_only: bool, max_think_chars: int) -> str:
    """EBNF for xgrammar: the strict answer, with at most `max_think_chars` characters of reasoning."""

    def cases(labels: list[str], category: str) -> str:
        names = ("Request",) if image_only else ("Request", "Response")
        lines = "".join(f"{name}:{label}\\n" for name, label in zip(names, labels, strict=True))
        return f'"{lines}Category:" {category} "\\n"'

    pairs = [["safe"], ["unsafe"]] if image_only else [[a, b] for a in ("safe", "unsafe") for b in ("safe", "unsafe")]
    body = " | ".join(cases(pair, "risk" if "unsafe" in pair else '"None"') for pair in pairs)
    return (
        f'root ::= "<think>" [a-zA-Z0-9 ,.]{{1,{max_think_chars}}} "</think>\\n<answer>\\n" body "</answer>"\n'
        f"body ::= {body}\n"
        'risk ::= "C1S1" | word " " word (" " word){0,3}\n'
        "word ::= [A-Z] [a-z]{2,9}\n"
    )
