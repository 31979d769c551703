"""A stand-in for flash_attn with the names that the host imports. It has no version and no kernels, on purpose."""
