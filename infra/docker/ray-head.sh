#!/usr/bin/env bash
# The head of a Ray cluster and the agent beside it: the agent is a Ray driver, and a driver needs a raylet on its own
# host. Whichever of the two ends takes the other with it, and the restart policy starts both afresh. The agent
# supervises itself: its own crashes do not come this far, so runners live through them.
set -uo pipefail

address="$(hostname -i | cut -d' ' -f1)"

ray start --head --block \
  --node-ip-address="$address" \
  --port=6379 \
  --node-manager-port=6380 \
  --object-manager-port=6381 \
  --dashboard-host=127.0.0.1 \
  --dashboard-port=8265 \
  --include-dashboard=true \
  --include-log-monitor=false \
  --temp-dir="${RAY_DIRECTORY:-/srv/ray}" \
  --object-store-memory="${RAY_OBJECT_STORE_BYTES:-268435456}" \
  --num-cpus="${RAY_HEAD_CPUS:-0}" \
  --disable-usage-stats &

FAIRLEAD_RAY_ADDRESS="$address:6379" python -m fairlead.agent &

end() {
  # shellcheck disable=SC2046  # one word for each process
  kill -TERM $(jobs -p) 2>/dev/null
  wait
  exit "$1"
}
trap 'end 0' TERM INT
wait -n
end "$?"
