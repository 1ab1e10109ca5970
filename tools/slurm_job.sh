# What slurm_train.sh and slurm_test.sh share: slurm_job PARTITION JOB_NAME TOOL ARGUMENTS...
# Environment: GPUS in all (4), GPUS_PER_NODE (4, or GPUS if that is less), CPUS_PER_TASK (5),
# SRUN_ARGS (more options of srun, split at blanks), PYTHON for the interpreter.
slurm_job() {
    local partition=$1 job=$2 tool=$3
    shift 3
    local gpus=${GPUS:-4}
    if ! ((gpus > 0)); then
        echo "$0: GPUS=$gpus is no number of GPUs" >&2
        exit 2
    fi
    local per_node=${GPUS_PER_NODE:-$((gpus < 4 ? gpus : 4))}
    local srun_args
    if ((gpus % per_node)); then
        echo "$0: GPUS=$gpus is no multiple of GPUS_PER_NODE=$per_node" >&2
        exit 2
    fi
    read -rd '' -a srun_args <<<"${SRUN_ARGS:-}" || true  # at blanks and line ends

    exec srun \
        --partition="$partition" \
        --job-name="$job" \
        --gres="gpu:$per_node" \
        --ntasks="$gpus" \
        --ntasks-per-node="$per_node" \
        --cpus-per-task="${CPUS_PER_TASK:-5}" \
        --kill-on-bad-exit=1 \
        ${srun_args[@]+"${srun_args[@]}"} \
        "${PYTHON:-python}" -u "$(dirname "${BASH_SOURCE[0]}")/$tool" "$@"
}
