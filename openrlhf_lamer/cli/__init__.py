"""The commands: `openrlhf-lamer` and the drop-in for OpenRLHF's trainer command."""
