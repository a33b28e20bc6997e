#!/usr/bin/env bash
# GRPO in verl 0.9 on predicted prompts, over several nodes. Run it on the head node of a Ray cluster on which verl (with
# one of its engines) and dps_pyro are installed on every node:
#
#   head:    ray start --head --port=6379
#   others:  ray start --address=<head>:6379
#   head:    RAY_ADDRESS=auto NODES=4 MODEL=Qwen/Qwen2.5-7B-Instruct DATA=/data/math bash examples/verl_multinode.sh
#
# More of verl's settings go behind it, as everywhere in Hydra: ... verl_multinode.sh trainer.total_epochs=3
# DRY_RUN=1 prints the overrides, one a line, and starts nothing.
set -euo pipefail

NODES=${NODES:-2}
GPUS=${GPUS:-8}                                   # of each node
MODEL=${MODEL:-Qwen/Qwen2.5-7B-Instruct}
DATA=${DATA:-$HOME/data/math}                     # with train.parquet and test.parquet, as verl's scripts write them
OUT=${OUT:-/shared/checkpoints/dps_pyro}          # seen by all nodes

overrides=(
  # The three lines that bring in predicted prompts. The variable reaches the Ray worker that runs the trainer; every
  # process of verl's that reads it needs dps_pyro installed.
  "+ray_kwargs.ray_init.runtime_env.env_vars.VERL_USE_EXTERNAL_MODULES=dps_pyro.trainers.verl.trainer"
  "trainer.v1.trainer_mode=dps_pyro_sync"         # or dps_pyro_colocate_async, dps_pyro_separate_async
  "+data.dps_pyro.dynamics=SolvingProgress"       # docs/guides/verl.md lists the other keys; all have defaults

  # The rest is verl's.
  "algorithm.adv_estimator=grpo"
  "data.train_files=$DATA/train.parquet"
  "data.val_files=$DATA/test.parquet"
  "data.train_batch_size=256"
  "data.max_prompt_length=1024"
  "data.max_response_length=3072"
  "data.filter_overlong_prompts=True"
  "data.seed=0"
  "actor_rollout_ref.model.path=$MODEL"
  "actor_rollout_ref.model.use_remove_padding=True"
  "actor_rollout_ref.actor.optim.lr=1e-6"
  "actor_rollout_ref.actor.ppo_mini_batch_size=256"
  "actor_rollout_ref.actor.use_dynamic_bsz=True"
  "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=16384"
  "actor_rollout_ref.actor.use_kl_loss=False"
  "actor_rollout_ref.rollout.name=vllm"
  "actor_rollout_ref.rollout.n=8"
  "actor_rollout_ref.rollout.tensor_model_parallel_size=2"
  "actor_rollout_ref.rollout.gpu_memory_utilization=0.6"
  "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=True"
  "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu=16384"
  "trainer.nnodes=$NODES"
  "trainer.n_gpus_per_node=$GPUS"
  "trainer.project_name=dps_pyro"
  "trainer.experiment_name=verl-$NODES-nodes"
  "trainer.logger=[console,wandb]"
  "trainer.default_local_dir=$OUT"
  "trainer.resume_mode=auto"
  "trainer.save_freq=20"
  "trainer.test_freq=20"
  "trainer.total_epochs=10"
  "$@"
)

if [ -n "${DRY_RUN:-}" ]; then
  printf '%s\n' "${overrides[@]}"
  exit
fi
exec python3 -m verl.trainer.main_ppo "${overrides[@]}"
