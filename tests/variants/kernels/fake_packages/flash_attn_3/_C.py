"""As tokenspeed-fa3 is built: importing it registers its operators."""

from tests.variants.kernels.reference_kernels import Flags, register_fa3

LIBRARY = register_fa3(
    "flash_attn_3",
    Flags(fp16=True, local=True, softcap=False, paged=True),
    sinks=",Tensor? sinks = None",
)
