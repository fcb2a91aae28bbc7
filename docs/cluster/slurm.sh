#!/usr/bin/env bash
# One study on several hosts of a Slurm cluster:
#
#     sbatch docs/cluster/slurm.sh STUDY --trials 2000 [other options of `python -m search run`]
#
# Each host runs the same command and joins the study of that name. Submitting again, or Slurm
# putting the job back into its queue, resumes it. What a user must change is marked CHANGE.
#
#SBATCH --job-name=goldilocks
#SBATCH --output=goldilocks-%j.log
# CHANGE: how many hosts, of which partition, with how many GPUs and cores each, and for how long.
#SBATCH --nodes=2
#SBATCH --partition=gpu
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=04:00:00
# One process a host: it measures on all GPUs that it sees. Neighbours would disturb latencies.
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
# After a failed node or a preemption, go on from what was told.
#SBATCH --requeue
#SBATCH --open-mode=append
# Before the time is up: the trials in flight (180 s at most, if not told otherwise) are finished
# and told, and the command ends with status 130.
#SBATCH --signal=TERM@240

set -euo pipefail

study=${1:?the name of a study is missing: sbatch slurm.sh STUDY [OPTIONS]}
shift

# CHANGE: where it is installed, the same version on all hosts.
# shellcheck source=/dev/null
source "$HOME/goldilocks/.venv/bin/activate"
# CHANGE: the database. Its password is in ~/.pgpass (mode 600), never here.
export GOLDILOCKS_STORAGE="postgresql://goldilocks@db.example.org/goldilocks?sslmode=require"

search=(python -m search run --study "$study" --workers all "$@")

# A host that ends early, or cannot measure, leaves the others at work.
srun --kill-on-bad-exit=0 --cpus-per-task="$SLURM_CPUS_PER_TASK" "${search[@]}" --no-finalists

# All trials are told: one host times the winners again, in turns, and prints the verdict.
exec srun --nodes=1 --ntasks=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" "${search[@]}"
