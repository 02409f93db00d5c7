"""The checkpoint's model class, run over the slots of a cache: one operation, which prefills and decodes alike."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .chat import Prepared
from .errors import LoadError
from .slots import SlotCache

_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator gave up. torch raises a RuntimeError for the CPU's, an OutOfMemoryError for a GPU's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _OUT_OF_MEMORY)


class Runner:
    """Extends sequences. Everything but `positions` and `load` is for the scheduler's thread alone."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self._model = model
        self._base = model.model
        self._head = model.get_output_embeddings()
        self.device = device
        self.config = model.config
        text = model.config.get_text_config()
        if any(kind != "full_attention" for kind in getattr(text, "layer_types", None) or ()):
            raise LoadError("the checkpoint uses sliding windows, which the slots do not have: use tensorrt_llm for it")
        self.context: int = text.max_position_embeddings
        self.vocabulary_size: int = self._head.weight.shape[0]
        ends = model.generation_config.eos_token_id
        if ends is None:
            raise LoadError("the checkpoint's generation_config.json names no end token")
        self.end_ids = frozenset([ends] if isinstance(ends, int) else ends)
        self.cache = SlotCache(
            layers=text.num_hidden_layers,
            heads=text.num_key_value_heads,
            head_size=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            device=device,
            dtype=model.dtype,
        )
        # transformers renamed the argument; 5.40 drops the old name.
        names = inspect.signature(inspect.unwrap(type(self._base).forward)).parameters
        self._cache_argument = "cache" if "cache" in names else "past_key_values"

    @classmethod
    def load(cls, checkpoint: Path, *, device: str, dtype: str) -> Runner:
        """Read the weights onto `device`; `dtype` "auto" is the checkpoint's own. Raises `LoadError`. Blocks for as long as it reads."""
        from transformers import AutoModelForImageTextToText

        try:
            model = AutoModelForImageTextToText.from_pretrained(
                checkpoint,
                local_files_only=True,
                dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                # The mask that this module makes is SDPA's kind.
                attn_implementation="sdpa",
                use_safetensors=True,
            )
            return cls(model.eval().to(device), torch.device(device))
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise LoadError(f"the weights of {checkpoint.name} cannot be opened: {error}") from error
        except (RuntimeError, MemoryError, AssertionError) as error:  # torch says "not compiled with CUDA" by an assertion.
            raise LoadError(f"the weights of {checkpoint.name} do not fit on {device}: {error}") from error

    def positions(self, prepared: Prepared) -> torch.Tensor:
        """The rotary positions [3, tokens] of a prompt: by time, row and column inside an image (the model's own rule)."""
        ids = torch.tensor([prepared.token_ids])
        if prepared.image_grid_thw is None:
            return torch.arange(ids.shape[1]).expand(3, -1)
        kinds = (ids == self.config.image_token_id).int()
        found, _ = self._base.get_rope_index(ids, mm_token_type_ids=kinds, image_grid_thw=prepared.image_grid_thw)
        return torch.as_tensor(found)[:, 0]

    def image_embeddings(self, prompts: Sequence[Prepared]) -> torch.Tensor | None:
        """The embeddings [image tokens, width] of all images of `prompts`, in order; None when they have none."""
        shown = [prompt for prompt in prompts if prompt.pixel_values is not None]
        if not shown:
            return None
        pixels = torch.cat([prompt.pixel_values for prompt in shown]).to(self.device)
        grids = torch.cat([prompt.image_grid_thw for prompt in shown]).to(self.device)
        with torch.inference_mode():
            found = self._base.get_image_features(pixels, image_grid_thw=grids)
            return torch.cat(tuple(getattr(found, "pooler_output", found)))

    def extend(
        self,
        first: int,
        past: Sequence[int],
        ids: Sequence[Sequence[int]],
        positions: torch.Tensor,
        images: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Add `ids` to the sequences in the slots from `first` on, and return float32 logits [n, vocabulary] behind each last one.

        `past` is how many positions each has already. `positions` [3, n, longest] are the rotary ones; `images` the
        embeddings that stand for the image tokens among `ids`, in order. Shorter rows are filled up on the right: what that
        writes is never seen, because the row's own next token is written over it. Room must have been reserved for it.
        Raises the allocator's error when memory runs out; then nothing of `past` has changed.
        """
        longest = max(map(len, ids))
        visible = max(past) + longest
        filled = torch.zeros(len(ids), longest, dtype=torch.long)
        for row, tokens in enumerate(ids):
            filled[row, : len(tokens)] = torch.tensor(tokens)
        filled = filled.to(self.device)
        behind = torch.tensor(past, device=self.device)
        last = torch.tensor([len(tokens) - 1 for tokens in ids], device=self.device)
        # Position j of a row sees what came before it and itself.
        edge = behind[:, None] + torch.arange(longest, device=self.device)
        mask = torch.arange(visible, device=self.device) <= edge[:, None, :, None]
        with torch.inference_mode():
            embedded = self._base.get_input_embeddings()(filled)
            if images is not None:
                # Fillings are id 0, so each image token is one of a prompt's own.
                places = (filled == self.config.image_token_id).unsqueeze(-1)
                embedded = embedded.masked_scatter(places, images.to(embedded.dtype))
            self.cache.aim(first, behind, longest, visible)
            hidden = self._base(
                inputs_embeds=embedded,
                position_ids=positions.to(self.device),
                attention_mask=mask,
                use_cache=True,
                **{self._cache_argument: self.cache},
            ).last_hidden_state
            rows = torch.arange(len(ids), device=self.device)
            logits: torch.Tensor = self._head(hidden[rows, last]).float()
            return logits
