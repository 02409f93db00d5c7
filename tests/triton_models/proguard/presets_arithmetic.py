"""How much memory a preset's checkpoint and cache take, from the numbers in Qwen2.5-VL's config.json."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30
GPU_GIB = {"h100": 78, "h200": 139}
"""What an 80 GB H100 and a 141 GB H200 leave to a process."""
RESERVED_GIB = 6
"""For activations of 8,192 tokens, CUDA graphs and the vision tower. An estimate: nothing was measured on a GPU."""
FRACTION = 0.85
CONTEXT = 8192


@dataclass(frozen=True, slots=True)
class Shape:
    """config.json of Qwen/Qwen2.5-VL-3B-Instruct and -7B-Instruct: the language model, and the vision tower that both share."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    words: int
    tied: bool
    head: int = 128
    vision_layers: int = 32
    vision_hidden: int = 1280
    vision_intermediate: int = 3420
    patch: int = 14
    frames: int = 2
    merge: int = 2

    @property
    def linear(self) -> int:
        """Parameters of the language model's linear layers without the output layer: what FP8 makes a byte each."""
        attention = 2 * self.hidden * self.heads * self.head + 2 * self.hidden * self.kv_heads * self.head
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def other(self) -> int:
        """All other parameters: embeddings, biases, norms, the vision tower and its merger."""
        embeddings = self.words * self.hidden * (1 if self.tied else 2)
        biases = self.layers * (self.heads + 2 * self.kv_heads) * self.head
        norms = (2 * self.layers + 1) * self.hidden
        return embeddings + biases + norms + self._vision

    @property
    def _vision(self) -> int:
        wide, inner = self.vision_hidden, self.vision_intermediate
        block = 4 * wide * wide + 3 * wide + wide + 3 * wide * inner + 2 * inner + wide + 2 * wide
        merged = wide * self.merge**2
        merger = wide + merged * merged + merged + merged * self.hidden + self.hidden
        return 3 * self.frames * self.patch**2 * wide + self.vision_layers * block + merger

    def weights(self, *, fp8: bool) -> int:
        """Bytes: two a parameter, or one for the linear layers in FP8 (ModelOpt leaves the rest in 16 bits)."""
        return self.linear * (1 if fp8 else 2) + self.other * 2

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values a token in 16 bits."""
        return 2 * self.layers * self.kv_heads * self.head * 2


SHAPES = {
    "3b": Shape(layers=36, hidden=2048, intermediate=11008, heads=16, kv_heads=2, words=151936, tied=True),
    "7b": Shape(layers=28, hidden=3584, intermediate=18944, heads=28, kv_heads=4, words=152064, tied=False),
}


@dataclass(frozen=True, slots=True)
class Budget:
    """One GPU with one checkpoint."""

    weights: int
    kv_bytes: int
    cache: int
    tokens: int
    contexts: int


def budget(gpu: str, size: str, *, fp8: bool) -> Budget:
    """`gpu` is h100 or h200, `size` 3b or 7b."""
    shape = SHAPES[size]
    weights = shape.weights(fp8=fp8)
    cache = int(FRACTION * (GPU_GIB[gpu] * GIB - weights - RESERVED_GIB * GIB))
    tokens = cache // shape.kv_bytes
    return Budget(weights, shape.kv_bytes, cache, tokens, tokens // CONTEXT)


def memory_comment(gpu: str, size: str, *, fp8: bool) -> str:
    """The block of comments in a preset."""
    shape, found = SHAPES[size], budget(gpu, size, fp8=fp8)
    how = (
        f"{shape.linear:,} parameters x 1 + {shape.other:,} x 2"
        if fp8
        else f"{shape.linear + shape.other:,} parameters x 2"
    )
    return "\n".join(
        (
            f"# Memory of Qwen2.5-VL-{size.upper()}{' in FP8' if fp8 else ''} on one {gpu.upper()} ({GPU_GIB[gpu]} GiB to use):",
            f"#   weights       {found.weights:>15,} bytes   {how}",
            f"#   KV per token  {found.kv_bytes:>15,} bytes   2 x {shape.layers} layers x {shape.kv_heads} heads x {shape.head} x 2 bytes",
            f"#   KV cache      {found.cache:>15,} bytes   {FRACTION} x ({GPU_GIB[gpu]} GiB - weights - {RESERVED_GIB} GiB for"
            " activations, graphs and vision: an estimate)",
            f"#   tokens        {found.tokens:>15,}         KV cache / KV per token",
            f"#   full contexts {found.contexts:>15,}         of {CONTEXT:,} tokens; a shared system message counts once",
        )
    )
