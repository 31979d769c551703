"""Drop-in for `python -m openrlhf.cli.train_ppo_ray`: the same flags, and `--agent_func` and `--lamer.*`."""

from openrlhf_lamer.integration.launch.launcher import main

if __name__ == "__main__":
    main()
