"""A checkpoint with the shape of Qwen2.5-VL-7B and random weights: for speed and memory where no real one can be had.

Its tokenizer is the tiny checkpoint's, so a prompt has more tokens than the real one's would have; the embedding has the real size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from triton_models.proguard.seal import seal
from triton_models.proguard.tiny import write_tiny

TEXT = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128000,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]},
}
VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 3584,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
"""config.json of Qwen/Qwen2.5-VL-7B-Instruct (Hugging Face)."""
MAX_PIXELS = 1280 * 28 * 28
"""A megapixel: 1,280 tokens an image at most."""


def write_shaped(
    folder: Path, *, device: str, text: dict[str, Any] | None = None, vision: dict[str, Any] | None = None
) -> None:
    """Write it into `folder`, sealed: 16.6 GB in bfloat16. `text` and `vision` change the shape (the tests make it small)."""
    import torch
    from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration

    write_tiny(folder, max_pixels=MAX_PIXELS, name="random weights, the shape of Qwen2.5-VL-7B")
    config = with_sizes(AutoConfig.from_pretrained(folder), TEXT | (text or {}), VISION | (vision or {}))
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device), torch.random.fork_rng():
            torch.manual_seed(0)
            model = Qwen2_5_VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(previous)
    tiny = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
    model.generation_config = tiny.generation_config
    for file in folder.glob("*.safetensors"):
        file.unlink()
    model.save_pretrained(folder)
    seal(folder, name="random weights, the shape of Qwen2.5-VL-7B")


def with_sizes(tiny: Any, text: dict[str, Any], vision: dict[str, Any]) -> Any:
    """`tiny` with other sizes. Made anew, because what follows from the sizes (one `layer_types` a layer) is worked out when it is made."""
    texts = {**tiny.text_config.to_dict(), **text}
    texts.pop("layer_types", None)
    others = {name: value for name, value in tiny.to_dict().items() if name not in ("text_config", "vision_config")}
    return type(tiny)(**others, text_config=texts, vision_config={**tiny.vision_config.to_dict(), **vision})
