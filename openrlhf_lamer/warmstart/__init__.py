"""Warm start: a model learns the format of replies, and how to use a memory, from a scripted player."""
