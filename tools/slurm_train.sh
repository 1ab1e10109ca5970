#!/usr/bin/env bash
# Train as a Slurm job: tools/slurm_train.sh PARTITION JOB_NAME CONFIG [arguments of train.py]
# Environment: GPUS in all (4), GPUS_PER_NODE (4, or GPUS if that is less), CPUS_PER_TASK (5),
# SRUN_ARGS (more options of srun, split at blanks), PYTHON for the interpreter.
set -euo pipefail
if (($# < 3)); then
    echo "usage: $0 PARTITION JOB_NAME CONFIG [arguments of train.py]" >&2
    exit 2
fi
partition=$1 job=$2 config=$3
shift 3

source "$(dirname "${BASH_SOURCE[0]}")/slurm_job.sh"
slurm_job "$partition" "$job" train.py "$config" --launcher slurm "$@"
