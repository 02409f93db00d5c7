"""The real guard: a Qwen2.5-VL checkpoint behind the same tensors as the embedded one."""
