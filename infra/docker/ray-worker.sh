#!/usr/bin/env bash
# A worker node: it joins the head of RAY_HEAD_ADDRESS (host:port) and ends when its raylet does.
set -euo pipefail

exec ray start --block \
  --address="$RAY_HEAD_ADDRESS" \
  --node-ip-address="$(hostname -i | cut -d' ' -f1)" \
  --node-manager-port=6380 \
  --object-manager-port=6381 \
  --object-store-memory="${RAY_OBJECT_STORE_BYTES:-268435456}" \
  --num-cpus="${RAY_WORKER_CPUS:-2}" \
  --disable-usage-stats
