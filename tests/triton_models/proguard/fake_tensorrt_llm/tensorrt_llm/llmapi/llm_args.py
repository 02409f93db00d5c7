"""Which arguments the PyTorch backend's `LLM` takes; the real ones refuse every other."""

from __future__ import annotations

from typing import Any

TORCH_LLM_ARGS = frozenset(
    {
        # BaseLlmArgs
        "pipeline_parallel_size",
        "context_parallel_size",
        "gpus_per_node",
        "load_format",
        "fail_fast_on_attention_window_too_large",
        "enable_lora",
        "lora_config",
        "kv_cache_config",
        "enable_chunked_prefill",
        "guided_decoding_backend",
        "batched_logits_processor",
        "iter_stats_max_iterations",
        "request_stats_max_iterations",
        "scheduler_config",
        "speculative_config",
        "max_batch_size",
        "max_input_len",
        "max_seq_len",
        "max_beam_width",
        "max_num_tokens",
        "gather_generation_logits",
        "num_postprocess_workers",
        "return_perf_metrics",
        "backend",
        # TorchLlmArgs
        "cuda_graph_config",
        "disable_overlap_scheduler",
        "attn_backend",
        "sampler_type",
        "enable_iter_perf_stats",
        "enable_iter_req_stats",
        "print_iter_log",
        "perf_metrics_max_requests",
        "batch_wait_timeout_ms",
        "torch_compile_config",
        "enable_autotuner",
        "stream_interval",
        "checkpoint_format",
    }
)


class KvCacheConfig:
    """The fields of the real one."""

    FIELDS = frozenset(
        {
            "enable_block_reuse",
            "max_tokens",
            "max_attention_window",
            "sink_token_length",
            "free_gpu_memory_fraction",
            "host_cache_size",
            "onboard_blocks",
            "cross_kv_cache_fraction",
            "secondary_offload_min_priority",
            "event_buffer_max_size",
            "attention_dp_events_gather_period_ms",
            "enable_partial_reuse",
            "copy_on_partial_reuse",
            "use_uvm",
            "max_gpu_total_bytes",
            "dtype",
            "mamba_ssm_cache_dtype",
            "tokens_per_block",
        }
    )

    @classmethod
    def check(cls, given: dict[str, Any] | None) -> None:
        unknown = set(given or {}) - cls.FIELDS
        if unknown:
            raise ValueError(f"Extra inputs are not permitted: {sorted(unknown)}")
