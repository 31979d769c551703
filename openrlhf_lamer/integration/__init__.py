"""The host: all that knows OpenRLHF, Ray and vLLM. Importing this package by itself loads none of them.

The CPU mode is installed while the interpreter starts, through this package: keep this file empty of imports.
"""
