"""The precision `auto`: bfloat16 where the hardware has instructions for it."""

from typing import Any

import torch


def resolved(precision: Any, accelerator: Any) -> Any:
    """`auto` as `bf16-mixed`, or as None, the Trainer's default of `32-true`; others as given.

    Without such instructions a step in bfloat16 takes several times as long as one in float32.
    """
    if precision != "auto":
        return precision
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if _has_bfloat16(on_gpu=on_gpu) else None


def _has_bfloat16(*, on_gpu: bool) -> bool:
    if on_gpu:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))
