#!/usr/bin/env bash
# Test as a Slurm job: tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of test.py]
# Environment: GPUS in all (4), GPUS_PER_NODE (4, or GPUS if that is less), CPUS_PER_TASK (5),
# SRUN_ARGS (more options of srun, split at blanks), PYTHON for the interpreter.
set -euo pipefail
if (($# < 4)); then
    echo "usage: $0 PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of test.py]" >&2
    exit 2
fi
partition=$1 job=$2 config=$3 checkpoint=$4
shift 4

source "$(dirname "${BASH_SOURCE[0]}")/slurm_job.sh"
slurm_job "$partition" "$job" test.py "$config" "$checkpoint" --launcher slurm "$@"
