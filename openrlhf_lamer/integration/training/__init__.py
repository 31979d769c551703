"""From trials to an update: rows, credit, the order of optimizer steps, and the logs."""
