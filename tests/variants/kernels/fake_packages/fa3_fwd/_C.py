"""As fa3-fwd is built: importing it registers its operators."""

from tests.variants.kernels.reference_kernels import Flags, register_fa3

LIBRARY = register_fa3(
    "fa3_fwd", Flags(fp16=False, local=False, softcap=True, paged=False), sinks=""
)
