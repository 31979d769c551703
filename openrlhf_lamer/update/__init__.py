"""The update on distinct tokens: rows as forests (`forest`), their micro-batches (`plan`), models on them (`model`)."""
