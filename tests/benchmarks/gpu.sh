#!/usr/bin/env bash
# The pace of five experiments on one CUDA card, on phantoms, in ten minutes and without a network.
# `--dry-run` trains small ones on the CPU, only to see that this works.
set -euo pipefail
cd "$(dirname "$0")/../.."
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv 2>/dev/null || true
exec timeout 600 python tests/benchmarks/gpu.py "$@"
