#!/usr/bin/env bash
# Watches the memory of a running ringway and has it give memory back above a threshold.
#
# ringway does that by itself (memory.cleanup_mb, memory.max_mb); this is the outside view of it,
# for whoever wants a log of their own or a lower line at certain hours.
#
#   monitor.sh [--once] [URL]
#
# URL (or RINGWAY_URL) is where /health and /admin/cleanup are answered, by default the data port,
# http://127.0.0.1:8000. It answers those on this machine only (admin.on_data_port): where the port
# is a container's, run this inside, or set "all". THRESHOLD_MB (400) is the line, INTERVAL (60) the
# seconds between two looks, TOKEN the value of admin.token where one is set. --once looks once and
# exits: 0 if ringway answered, 1 if it did not.
set -euo pipefail

usage() {
    cat <<'USAGE'
Watches the memory of a running ringway and has it give memory back above a threshold.

  monitor.sh [--once] [URL]

  --once    look once and exit: 0 if ringway answered, 1 if it did not
  URL       where /health and /admin/cleanup are answered [default: $RINGWAY_URL, or
            http://127.0.0.1:8000]

Variables:
  THRESHOLD_MB   clean up above so many MiB [400]
  INTERVAL       seconds between two looks [60]
  TOKEN          the value of admin.token, where one is set
USAGE
}

is_once=false
while (($#)); do
    case $1 in
    -h | --help)
        usage
        exit 0
        ;;
    --once) is_once=true ;;
    -*)
        echo "monitor.sh: unknown flag $1; see monitor.sh --help" >&2
        exit 2
        ;;
    *) break ;;
    esac
    shift
done
url=${1:-${RINGWAY_URL:-http://127.0.0.1:8000}}
threshold_mb=${THRESHOLD_MB:-400}
interval=${INTERVAL:-60}

for tool in curl jq; do
    if ! command -v "$tool" >/dev/null; then
        echo "monitor.sh needs $tool: install it (apt-get install $tool)" >&2
        exit 2
    fi
done

log() { printf '%s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*"; }

cleanup() {
    local headers=()
    if [[ -n ${TOKEN:-} ]]; then headers=(--header "Authorization: Bearer $TOKEN"); fi
    curl --silent --show-error --fail --max-time 15 --request POST "${headers[@]}" \
        "$url/admin/cleanup"
}

look() {
    local health usage_mb
    if ! health=$(curl --silent --show-error --fail --max-time 5 "$url/health"); then
        log "no answer from $url/health"
        return 1
    fi
    usage_mb=$(jq -r .memory_usage_mb <<<"$health")
    log "$(jq -r '"status=\(.status) memory=\(.memory_usage_mb)MB clients=\(.connections.clients)"' \
        <<<"$health")"
    if jq -e --argjson line "$threshold_mb" '.memory_usage_mb > $line' <<<"$health" >/dev/null; then
        log "memory is above $threshold_mb MB ($usage_mb): cleaning up"
        log "cleanup $(cleanup)"
    fi
}

if $is_once; then
    look
    exit
fi
while true; do
    look || true
    sleep "$interval"
done
