#!/bin/bash
# Several jobs work on one study; one that is pre-empted goes on with its trial:
#   sbatch --array=1-4 experiments/sweeps/slurm.sh --folder lightning_logs/mlp/sweep_a \
#       --config experiments/mlp.yaml --sweep experiments/sweeps/mlp.yaml
# The last job to end writes the results. Where the folder is on a file system whose locks do not
# hold between machines, add --storage with the address of a database server.
#SBATCH --job-name=sweep --ntasks=1 --cpus-per-task=1 --requeue --open-mode=append
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
exec srun --ntasks=1 "${PYTHON:-.venv/bin/python}" -m twinloop sweep "$@"
