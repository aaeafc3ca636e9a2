#!/bin/sh
# The first word after the image's name decides:
#
#   doctor, evaluate, export, predict, report, trace     python -m train.WORD ...
#   index, pack, prepare, show                           python -m pipeline.WORD ...
#   benchmarks                                           python -m benchmarks ...
#   a program of the image (bash, python, torchrun, ...)  that
#   anything else, as a recipe or --help                 python -m train ..., by torchrun where there are several GPUs
#
# Every branch replaces this shell, so that a stop request reaches the trainer, which then writes a checkpoint.
set -eu

[ $# -gt 0 ] || set -- --help

case $1 in
doctor | evaluate | export | predict | report | trace)
    command=$1
    shift
    exec python -m "train.$command" "$@"
    ;;
index | pack | prepare | show)
    command=$1
    shift
    exec python -m "pipeline.$command" "$@"
    ;;
benchmarks)
    exec python -m "$@"
    ;;
-*) ;;
*)
    if command -v "$1" >/dev/null; then
        exec "$@"
    fi
    gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
    if [ "$gpus" -gt 1 ]; then
        exec torchrun --standalone --nproc-per-node="$gpus" -m train "$@"
    fi
    ;;
esac
exec python -m train "$@"
