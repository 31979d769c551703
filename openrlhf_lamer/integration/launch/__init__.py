"""From a command line to the host's own command: flags, checks, Ray, and the classes put in the host's places."""
