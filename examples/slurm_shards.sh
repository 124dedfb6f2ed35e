#!/bin/bash
# Transcribe the shards of a data set on a Ray cluster over the nodes of one allocation:
#
#     sbatch examples/slurm_shards.sh
#
# Actors start as soon as a node has joined. If a node fails, other nodes do its shards again. Run this again to transcribe
# whatever is still missing.

#SBATCH --job-name=transcripts
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=2
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=08:00:00
#SBATCH --output=transcripts-%j.log
#SBATCH --open-mode=append
# Slurm queues a preempted job again, and goes on if a node fails. Two minutes before the time limit it sends SIGTERM to this
# script alone (B:), so that Ray still runs while hubert-fast ends. Shards in work are done again later.
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --signal=B:TERM@120

set -u

# Without srun's own option, Slurm 22.05 and later give the command a single CPU.
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

# The batch script runs on the first node of the allocation.
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
port=$((20000 + SLURM_JOB_ID % 10000))
address=$head:$port

srun --nodes=1 --ntasks=1 --nodelist="$head" ray start --head --port="$port" --block &
steps=($!)
trap 'kill "${steps[@]}" 2>/dev/null; wait' EXIT

tries=0
until ray status --address "$address" >/dev/null 2>&1; do
    tries=$((tries + 1))
    if [ "$tries" -ge 60 ]; then
        echo "the head of the Ray cluster did not start on $head" >&2
        exit 2
    fi
    sleep 2
done

for node in "${nodes[@]:1}"; do
    srun --nodes=1 --ntasks=1 --nodelist="$node" ray start --address="$address" --block &
    steps+=($!)
done

trap 'kill -TERM "$!"' TERM
hubert-fast transcribe 's3://BUCKET/shards/{000000..000127}.tar' \
    -o s3://BUCKET/transcripts/ --format parquet \
    --per-shard --model facebook/hubert-large-ls960-ft \
    --engine ray --ray-address "$address" --actors 1,8 &
child=$!

# A signal ends the first wait while hubert-fast is still ending.
wait "$child"
status=$?
while kill -0 "$child" 2>/dev/null; do
    wait "$child"
    status=$?
done

# The same job continues later with the shards that are missing.
if [ "$status" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
