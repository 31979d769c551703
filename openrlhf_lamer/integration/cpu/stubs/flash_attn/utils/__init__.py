"""Utilities of flash_attn that the host imports."""
