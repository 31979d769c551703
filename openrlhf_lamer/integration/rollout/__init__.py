"""From the host's prompts to trials: what is drawn, where it is played, and the samples that come back."""
