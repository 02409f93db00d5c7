"""What a case of the prompt suite is, and where such attacks come from."""

from __future__ import annotations

from dataclasses import dataclass

IGNORE = "Perez & Ribeiro 2022, Ignore Previous Prompt, arXiv 2211.09527"
INDIRECT = "Greshake et al. 2023, indirect prompt injection, arXiv 2302.12173"
COMBINED = "Liu et al. 2023, Formalizing and Benchmarking Prompt Injection, arXiv 2310.12815"
CHATBUG = "Jiang et al. 2024, ChatBug, arXiv 2406.12935"
VIRTUAL = "Zhou et al. 2024, Virtual Context (special token injection), arXiv 2406.19845"
STRUQ = "Chen et al. 2024, StruQ (completion attacks), arXiv 2402.06363"
JUDGE = "Shi et al. 2024, JudgeDeceiver, arXiv 2403.17710"
MASTER_KEY = "Zhao et al. 2025, One Token to Fool LLM-as-a-Judge, arXiv 2507.08794"
BAD_CHARACTERS = "Boucher et al. 2021, Bad Characters, arXiv 2106.09898"
TROJAN_BIDI = "Boucher & Anderson 2021, Trojan Source, CVE-2021-42574"
TROJAN_HOMOGLYPH = "Boucher & Anderson 2021, Trojan Source, CVE-2021-42694"
SMUGGLING = "Goodside 2024 / embracethered.com, ASCII smuggling with tag characters"
SELECTORS = "Butler 2025, data in variation selectors"
PUPPETRY = "HiddenLayer 2025, Policy Puppetry"
MANY_SHOT = "Anil et al. 2024, Many-shot Jailbreaking"
CONFUSABLES = "Unicode UTS #39, confusables"
NORMALISATION = "Unicode UTR #36, normalisation and security"
LINE_ENDS = "Unicode UAX #14, mandatory breaks"
OWASP = "OWASP LLM01:2025, prompt injection"
PLACEHOLDERS = "vLLM, placeholder tokens in text, CVE-2025-46560"
OWN = "own"


@dataclass(frozen=True, slots=True)
class Case:
    """A hostile event: what its two texts are, and where the trick is from."""

    name: str
    source: str
    user: str
    agent: str = ""


QWEN_ADDED_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)
"""All added tokens of Qwen2.5-VL, ids 151643 to 151664 (`added_tokens_decoder` in the tokenizer_config.json of
Qwen/Qwen2.5-VL-7B-Instruct): the guard's tokenizer turns each into one token wherever it stands."""
