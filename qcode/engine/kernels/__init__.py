"""Fast paths for the inner loops of the models, each beside its plain torch definition.

The functions here have the signatures and meaning of those in `kernels.reference`.
"""

from qcode.engine.kernels.reference import apply_rotary, paged_attention, rms_norm, silu_and_mul

__all__ = ["apply_rotary", "paged_attention", "rms_norm", "silu_and_mul"]
