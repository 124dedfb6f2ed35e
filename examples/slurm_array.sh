#!/bin/bash
# Transcribe the shards of a data set in a job array, without Ray. Each task has one GPU and its own part of the shards.
# All tasks write into the same folder. Run this again, with the same --array, to transcribe whatever is still missing:
#
#     sbatch examples/slurm_array.sh

#SBATCH --job-name=transcripts
#SBATCH --array=0-15
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=08:00:00
#SBATCH --output=transcripts-%A-%a.log
#SBATCH --open-mode=append
# Slurm queues a preempted task again. Two minutes before the time limit it sends SIGTERM to hubert-fast, which finishes the
# shards in work and exits with 143.
#SBATCH --requeue
#SBATCH --signal=TERM@120

set -u

# Without srun's own option, Slurm 22.05 and later give the command a single CPU.
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

# This script goes on after a SIGTERM, so that it sees the exit status of hubert-fast.
trap : TERM

srun hubert-fast transcribe 's3://BUCKET/shards/{000000..000127}.tar' \
    -o s3://BUCKET/transcripts/ --format parquet \
    --per-shard --shard "$((SLURM_ARRAY_TASK_ID + 1))/${SLURM_ARRAY_TASK_COUNT}" \
    --model facebook/hubert-large-ls960-ft --device cuda
status=$?

# The same task continues later with the shards that are missing.
if [ "$status" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
