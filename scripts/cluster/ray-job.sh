#!/usr/bin/env bash
# Train on a running Ray cluster: RAY_API_SERVER_ADDRESS=http://HEAD:8265 scripts/cluster/ray-job.sh
set -euo pipefail
: "${RAY_API_SERVER_ADDRESS:?is not set: the address of the cluster\'s dashboard, such as http://HEAD:8265}"
MODEL=${MODEL:-Qwen/Qwen3-4B}
DATA=${DATA:-/shared/data/sokoban}
RUNS=${RUNS:-/shared/runs/sokoban}

exec ray job submit --address "$RAY_API_SERVER_ADDRESS" -- \
    python -m openrlhf_lamer.cli.train_ppo_ray \
    --agent_func openrlhf_lamer.agents.sokoban --algo.advantage.estimator lamer_gigpo \
    --actor.model_name_or_path "$MODEL" --data.prompt_dataset "$DATA/train.jsonl" \
    --actor.num_nodes 2 --actor.num_gpus_per_node 8 --vllm.num_engines 16 --train.colocate_all \
    --vllm.enable_sleep --ds.enable_sleep --vllm.gpu_memory_utilization 0.6 \
    --actor.adam.lr 1e-6 --actor.gradient_checkpointing_enable \
    --ckpt.path "$RUNS/checkpoints" --ckpt.save_steps 20 --ckpt.load_enable --ckpt.output_dir "$RUNS/model"
