"""An example extension of openrlhf-lamer."""
