"""A stand-in for flash_attn with what the host's import of it names. It has no version and no kernels, on purpose."""
