"""Evaluation: playing a panel of tasks with a checkpoint, and the statistics and pictures of it."""
