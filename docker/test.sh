#!/usr/bin/env bash
# Tests the image with a real engine: a dockerd of its own, started here and ended here.
#
#   docker/test.sh             builds the static binary first
#   docker/test.sh BINARY      takes this one
#
# Nothing is pulled: the image has no base. The engine lives in namespaces of its own, so that its
# bridges, addresses, firewall rules and mounts are nobody else's and are gone with it.
#
# ENGINE_PATH names folders with another engine than the one in /usr: dockerd, containerd, docker.
#
# Runs as root on Linux. Installs what is missing with apt-get where that is possible (docker.io,
# iptables, iproute2, jq, curl, wrk). Exit codes: 0 passed, 1 failed, 77 no engine can be had here.
set -euo pipefail
cd "$(dirname "$0")/.."
# Engine and client of one package, whatever else is installed.
export PATH=${ENGINE_PATH:+$ENGINE_PATH:}/usr/sbin:/usr/bin:/sbin:/bin:$PATH

readonly IMAGE_BYTES_MAX=22000000
readonly FLAG='--security-opt seccomp=docker/seccomp.json'

unavailable() {
    echo "docker/test.sh: skipped: $*"
    exit 77
}

# ----- outside: what is needed, then the namespaces ---------------------------------------------

install_tools() {
    local missing=() pair
    for pair in dockerd:docker.io iptables:iptables ip:iproute2 jq:jq curl:curl wrk:wrk; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
    done
    ((${#missing[@]})) || return 0
    command -v apt-get >/dev/null || unavailable "${missing[*]} missing, and no apt-get"
    # Debian starts what it installs; the engine of this test starts below.
    if ! { apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}"; }; then
        unavailable "could not install ${missing[*]}"
    fi
}

outside() {
    ((EUID == 0)) || unavailable "an engine of its own takes root"
    local namespaces=(unshare --mount --net --pid --fork --kill-child --mount-proc)
    "${namespaces[@]}" true 2>/dev/null || unavailable "namespaces are not permitted here"
    install_tools
    local binary=${1:-target/container/ringway}
    (($#)) || docker/build.sh
    # Short, because the path of a socket may have 108 bytes.
    scratch=$(mktemp -d /tmp/ringway-docker.XXXXXX)
    trap leave EXIT
    "${namespaces[@]}" "$PWD/docker/test.sh" --inside "$scratch" "$binary"
}

# The control groups are the machine's: the only thing that does not end with the namespaces.
leave() {
    find /sys/fs/cgroup -depth -type d -path "*/${scratch##*/}*" -exec rmdir {} + 2>/dev/null || true
    rm -rf "$scratch"
}

# ----- inside: the engine -----------------------------------------------------------------------

start_engine() {
    ip link set lo up
    export DOCKER_HOST=unix://$scratch/docker.sock DOCKER_CONFIG=$scratch/client
    unset DOCKER_CONTEXT
    dockerd --data-root "$scratch/data" --exec-root "$scratch/run" --host "$DOCKER_HOST" \
        --pidfile "$scratch/docker.pid" --exec-opt native.cgroupdriver=cgroupfs \
        --cgroup-parent "/${scratch##*/}" >"$scratch/dockerd.log" 2>&1 &
    engine=$!
    trap stop_engine EXIT
    trap 'exit 1' INT TERM
    if ! within 60 docker version >/dev/null 2>&1; then
        tail -n 5 "$scratch/dockerd.log"
        unavailable "dockerd does not start"
    fi
    docker version --format 'engine {{.Server.Version}}, client {{.Client.Version}}'
}

stop_engine() {
    local containers
    containers=$(docker ps -aq 2>/dev/null) || true
    # shellcheck disable=SC2086 # a list of words
    [[ -z $containers ]] || docker rm -f $containers >/dev/null 2>&1 || true
    kill "$engine" 2>/dev/null || true
    wait "$engine" || true
}

# Runs a command until it succeeds, for so many seconds at most.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < end)) || return 1
        sleep 0.2
    done
}

passed=0
promise=
begin() {
    promise=$1
    started=$SECONDS
}
pass() {
    passed=$((passed + 1))
    printf 'ok      %s (%s s)%s\n' "$promise" $((SECONDS - started)) "${1:+: $1}"
}
fail() {
    printf 'FAILED  %s: %s\n' "$promise" "$*"
    local container
    for container in proxy origin; do
        printf -- '-- the last lines of %s\n' "$container"
        docker logs --tail 20 "$container" 2>&1 || true
    done
    printf '%s passed, 1 failed\n' "$passed"
    exit 1
}

# The flags of README.md and docs/deploy/docker.md, as far as this machine can give them.
confine() {
    confined=(--security-opt seccomp=docker/seccomp.json --security-opt no-new-privileges
        --cap-drop ALL --read-only --pids-limit 256 --sysctl net.core.somaxconn=65536
        # The image asks every 10 s; a test that waits for the answers may ask more often.
        --health-interval 1s --health-retries 2)
    if (ulimit -l unlimited && ulimit -n 65536) 2>/dev/null; then
        confined+=(--ulimit memlock=-1:-1 --ulimit nofile=65536:65536)
    else
        # Without CAP_SYS_RESOURCE an engine cannot give more than it has.
        local locked=$(($(ulimit -Hl) * 1024)) files
        files=$(ulimit -Hn)
        confined+=(--ulimit "memlock=$locked:$locked" --ulimit "nofile=$files:$files")
        echo "note: limits above this machine's cannot be set: memlock $locked, nofile $files"
    fi
}

# ----- what the image promises ------------------------------------------------------------------

test_image() {
    begin "the prebuilt image is small, static and holds nothing but binary and configuration"
    docker build -q -f docker/prebuilt.Dockerfile -t ringway \
        --build-arg BINARY=ringway "$scratch/context" >"$scratch/build.log" 2>&1 ||
        fail "$(cat "$scratch/build.log")"
    local size files
    size=$(docker image inspect -f '{{.Size}}' ringway)
    ((size < IMAGE_BYTES_MAX)) || fail "$size bytes, $IMAGE_BYTES_MAX allowed"
    docker create --name files ringway >/dev/null
    # The engine itself puts empty files into every container.
    files=$(docker export files | tar -t |
        grep -v -e '/$' -e '^.dockerenv$' -e '^dev/console$' \
            -e '^etc/\(hostname\|hosts\|mtab\|resolv.conf\)$' | sort | xargs)
    docker rm files >/dev/null
    [[ $files == "etc/ringway/config.toml usr/local/bin/ringway" ]] || fail "it holds $files"
    pass "$size bytes"

    begin "it says who it is, whom it runs as, how it is asked and how it is stopped"
    local version
    version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
    expect_config .User 65532:65532
    expect_config .StopSignal SIGTERM
    expect_config '.ExposedPorts | keys[0]' 8000/tcp
    expect_config '.Healthcheck.Test | join(" ")' 'CMD /usr/local/bin/ringway health'
    expect_config '.Labels["org.opencontainers.image.version"]' "$version"
    [[ $(docker run --rm ringway --version) == "ringway $version" ]] || fail "another --version"
    docker run --rm "${confined[@]}" ringway check >/dev/null || fail "its configuration is wrong"
    local file
    for file in docker/{image,ringway,kubernetes}/config.toml; do
        "$scratch/context/ringway" check --file-only --config "$file" >/dev/null || fail "$file is wrong"
    done
    pass
}

expect_config() {
    local found
    found=$(docker image inspect ringway | jq -r ".[0].Config | $1")
    [[ $found == "$2" ]] || fail "$1 is $found and not $2"
}

# ----- what a forbidden io_uring does -----------------------------------------------------------

# Runs ringway to its end, which is to be an exit with 1 and one line that holds all these words.
# It is told to use io_uring or nothing.
expect_refusal() {
    local status=0 text word
    local -a flags=()
    while [[ $1 != -- ]]; do
        flags+=("$1")
        shift
    done
    shift
    text=$(timeout 30 docker run --rm "${flags[@]}" ringway --set server.driver=io_uring 2>&1) ||
        status=$?
    ((status == 1)) || fail "exit code $status: $text"
    # Behind the line that says what starts.
    [[ $text == *$'\n'* ]] && text=${text#*$'\n'}
    [[ $text != *$'\n'* ]] || fail "more than one line: $text"
    for word; do
        [[ $text == *"$word"* ]] || fail "no \"$word\" in: $text"
    done
}

# Profiles that refuse as Docker 25 does (EPERM), and as Podman and gVisor do (ENOSYS).
write_profiles() {
    jq 'del(.syscalls[] | select(.names | index("io_uring_setup")))' docker/seccomp.json \
        >"$scratch/without.json"
    jq '.syscalls += [{
            names: ["io_uring_setup", "io_uring_enter", "io_uring_register"],
            action: "SCMP_ACT_ERRNO", errnoRet: 38
        }]' "$scratch/without.json" >"$scratch/absent.json"
}

# Starts the image with these flags and no others, and asks it by the driver that is expected, or
# by whichever the engine permits. What it warns of, beside io_uring, is this machine's.
expect_service() {
    local expected=$1 address driver
    shift
    docker run -d --name bare "$@" ringway >/dev/null
    address=http://$(docker inspect -f '{{.NetworkSettings.Networks.bridge.IPAddress}}' bare):8000
    within 30 curl -s -o /dev/null --max-time 5 "$address/" || fail "$(docker logs bare 2>&1)"
    [[ $(curl -sS --max-time 10 "$address/bytes/100000" | wc -c) == 100000 ]] ||
        fail "another answer: $(docker logs bare 2>&1)"
    driver=$(figure bare .driver)
    [[ $driver =~ ^\"($expected)\"$ ]] || fail "the driver is $driver: $(docker logs bare 2>&1)"
    if [[ $driver == '"epoll"' ]]; then
        (($(docker logs bare 2>&1 | grep -c 'epoll serves') == 1)) ||
            fail "it does not say why once: $(docker logs bare 2>&1)"
    fi
    docker stop -t 40 bare >/dev/null
    [[ $(docker inspect -f '{{.State.ExitCode}}' bare) == 0 ]] || fail "$(docker logs bare 2>&1)"
    docker rm bare >/dev/null
    promised=$driver
}

test_any_engine() {
    local promised
    begin "without any flag, under this engine's own profile, it serves"
    expect_service 'io_uring|epoll'
    pass "by $promised"

    begin "under profiles without io_uring, and without lockable memory, it serves by epoll"
    expect_service epoll --security-opt "seccomp=$scratch/without.json"
    expect_service epoll --security-opt "seccomp=$scratch/absent.json"
    expect_service epoll --security-opt seccomp=docker/seccomp.json --ulimit memlock=0:0
    expect_service epoll --security-opt "seccomp=$scratch/absent.json" --ulimit memlock=0:0 \
        --read-only --cap-drop ALL --security-opt no-new-privileges
    pass
}

test_refusals() {
    begin "where io_uring is demanded and forbidden, it names the flag and exits with 1"
    expect_refusal --security-opt "seccomp=$scratch/without.json" -- \
        'blocked by a seccomp filter (io_uring_setup, io_uring_enter, io_uring_register)' "$FLAG"
    pass

    begin "where io_uring is demanded and no memory can be locked, it names that flag and exits with 1"
    expect_refusal --security-opt seccomp=docker/seccomp.json --ulimit memlock=0:0 -- \
        'RLIMIT_MEMLOCK is 0 bytes' '--ulimit memlock=-1:-1'
    pass
}

# ----- ringway and an origin, each in its container ----------------------------------------------

health_is() {
    [[ $(docker inspect -f '{{.State.Health.Status}}' "$1") == "$2" ]]
}

start_pair() {
    begin "ringway and an origin on a private network are healthy, confined and unprivileged"
    docker network create private >/dev/null
    docker run -d --name origin --network private "${confined[@]}" \
        --memory 96m --memory-swap 96m ringway >/dev/null
    mkdir "$scratch/etc"
    cat >"$scratch/etc/config.toml" <<'CONFIG'
[memory]
max_mb = "auto"
[timeouts]
# A busy machine is no reason for an answer with 504.
pool = "60s"
[[upstream]]
name = "app"
origins = ["http://origin:8000"]
CONFIG
    docker run -d --name proxy --network private --publish 127.0.0.1:8000:8000 \
        "${confined[@]}" --memory 128m --memory-swap 128m \
        --volume "$scratch/etc:/etc/ringway:ro" ringway >/dev/null
    local container pid line
    for container in origin proxy; do
        within 60 health_is "$container" healthy ||
            fail "$container: $(docker inspect -f '{{json .State.Health}}' "$container")"
    done
    pid=$(docker inspect -f '{{.State.Pid}}' proxy)
    for line in 'Uid:.65532.65532.65532.65532' 'CapBnd:.0*' 'CapEff:.0*' 'NoNewPrivs:.1' \
        'Seccomp:.2'; do
        grep -qx "$line" "/proc/$pid/status" || fail "no $line in /proc/$pid/status"
    done
    [[ -n $(find "/proc/$pid/fd" -lname '*io_uring*') ]] || fail "it holds no ring"
    address=http://$(docker inspect -f '{{.NetworkSettings.Networks.private.IPAddress}}' proxy):8000
    pass

    begin "a request by the published port comes from the other container"
    local answer
    answer=$(curl -sS --max-time 10 http://127.0.0.1:8000/echo) || fail "no answer"
    # The origin is a ringway too, and both have left their mark.
    (($(grep -ci '^cdn-loop: .*ringway' <<<"$answer") == 2)) || fail "$answer"
    pass
}

# Bounded load, without an error of any kind.
load() {
    local text
    text=$(wrk -t 2 -c "$1" -d "$2s" --timeout 20s "$address$3")
    if ! grep -q 'requests in' <<<"$text" || grep -q -E 'Socket errors|Non-2xx' <<<"$text"; then
        echo "$text"
        return 1
    fi
    awk '/requests in/ { requests = $1 } /Requests\/sec/ { rate = $2 }
        END { print requests " requests, " rate " per second" }' <<<"$text"
}

# A figure of the answer that HEALTHCHECK gets.
figure() {
    local answer
    answer=$(docker exec "$1" /usr/local/bin/ringway health --json 2>/dev/null) || true
    jq -e "$2" <<<"$answer" 2>/dev/null || echo "no $2 in $answer"
}

# Four fifths of the container's limit, in whole MiB: what memory.max_mb = "auto" stands for.
expect_ceiling() {
    local container=$1 limit_mb=$2 limit ceiling
    limit=$(figure "$container" .memory.cgroup_limit_bytes)
    [[ $limit == $((limit_mb << 20)) ]] || fail "the limit of $container: $limit"
    ceiling=$(figure "$container" .memory.ceiling_bytes)
    [[ $ceiling == $(((limit_mb * 4 / 5) << 20)) ]] ||
        fail "the ceiling of $container: $ceiling of $limit"
}

test_ceiling() {
    begin "the ceiling follows the limit, by the image's configuration and by a mounted one"
    expect_ceiling origin 96
    expect_ceiling proxy 128
    pass
}

# Errors would mean that ringway does not run, and it does.
test_doctor() {
    begin "doctor sees the container as it is, and finds nothing in the way"
    local report status=0 expected
    report=$(docker exec proxy /usr/local/bin/ringway doctor --json) || status=$?
    expected=$(jq '{ ok: 0, hint: 0, warning: 3 }[.severity] // 1' <<<"$report")
    ((status == expected && status != 1)) || fail "exit code $status: $report"
    expect_found listeners ok "0.0.0.0:8000 by ringway"
    expect_found memory_ceiling ok "auto of 128 MiB"
    expect_found processes ok 256
    expect_found somaxconn ok 65536
    expect_found seccomp ok "a filter, and io_uring passes"
    pass "$(jq -r '[.findings[] | select(.severity != "ok") | .id] | join(", ")' <<<"$report")"
}

expect_found() {
    local found
    found=$(jq -c --arg id "$1" '.findings[] | select(.id == $id) | [.severity, .current]' \
        <<<"$report")
    [[ $(jq -r '.[0]' <<<"$found") == "$2" && $(jq -r '.[1]' <<<"$found") == *"$3"* ]] ||
        fail "$1 is ${found:-not there}"
}

test_load() {
    begin "64 clients get every answer"
    result=$(load 64 5 /bytes/1000) || fail "$result"
    pass "$result"

    begin "1000 clients of 1 MB each stay below a memory limit of 128 MB"
    result=$(load 1000 8 /bytes/1000000) || fail "$result"
    local state limit=$((128 << 20)) peak
    state=$(docker inspect -f '{{.State.Running}} {{.State.OOMKilled}} {{.RestartCount}}' proxy)
    [[ $state == "true false 0" ]] || fail "running, killed for memory, restarts: $state"
    peak=$(peak_bytes)
    pass "$result; peak $peak of $limit bytes"
}

# The most that the container has had, by either version of cgroups.
peak_bytes() {
    local pid path
    pid=$(docker inspect -f '{{.State.Pid}}' proxy)
    path=$(sed -n 's/^[0-9]*:memory://p' "/proc/$pid/cgroup")
    cat "/sys/fs/cgroup/memory$path/memory.max_usage_in_bytes" 2>/dev/null ||
        cat "/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$pid/cgroup")/memory.peak" 2>/dev/null ||
        echo unknown
}

test_healthcheck() {
    begin "HEALTHCHECK finds a ringway that hangs, and one that goes on"
    docker kill --signal STOP proxy >/dev/null
    within 30 health_is proxy unhealthy || fail "a stopped process is still called healthy"
    docker kill --signal CONT proxy >/dev/null
    within 30 health_is proxy healthy || fail "it goes on and is still called unhealthy"
    pass
}

# ----- docker stop under load --------------------------------------------------------------------

readonly WRITE_OUT='%{exitcode} %{http_code} %{time_connect} %{size_download}\n'

# One request after the other, until one is not answered.
ask_on() {
    local line
    while :; do
        line=$(curl -s -o /dev/null --connect-timeout 5 --max-time 30 -w "$WRITE_OUT" \
            "$address/delay/200") || true
        echo "$line"
        [[ $line == "0 200 "* ]] || break
    done
}

test_drain() {
    begin "docker stop under load fails no request"
    local client clients=8 whole before status last answered=0
    # 20 events in 2 s: these will be half way.
    whole=$(curl -s --max-time 20 "$address/sse" | wc -c)
    ((whole > 0)) || fail "no events"
    local -a children=()
    for ((client = 0; client < clients; client++)); do
        ask_on >"$scratch/asked.$client" &
        children+=($!)
    done
    sleep 1
    for ((client = 0; client < clients; client++)); do
        curl -s -o /dev/null --max-time 30 -w "$WRITE_OUT" "$address/sse" \
            >"$scratch/streamed.$client" &
        children+=($!)
    done
    sleep 0.5
    before=$SECONDS
    docker stop -t 40 proxy >/dev/null
    local took=$((SECONDS - before))
    wait "${children[@]}" || true

    for ((client = 0; client < clients; client++)); do
        read -r status code _ size <"$scratch/streamed.$client"
        [[ "$status $code $size" == "0 200 $whole" ]] ||
            fail "a stream was cut: curl $status, status $code, $size of $whole bytes"
        last=$(tail -n 1 "$scratch/asked.$client")
        # Refused at the door (7), or no longer there to refuse (28): never connected.
        [[ $last =~ ^(7|28)\ 000\ 0\.000000\  ]] || fail "a request was lost: $last"
        answered=$((answered + $(grep -c '^0 200 ' "$scratch/asked.$client")))
    done
    ((answered >= clients)) || fail "only $answered answers before the stop"
    status=$(docker inspect -f '{{.State.ExitCode}}' proxy)
    ((status == 0)) || fail "exit code $status"
    docker logs proxy 2>&1 | tail -n 1 | grep -q 'stopped connections=0 leased_chunks=0' ||
        fail "it did not end in order"
    pass "$answered short and $clients long requests answered, stopped in $took s"
}

# ----- containers that are found by their labels ---------------------------------------------------

# Containers that are asked for shop.test.
targets_are() {
    local found
    found=$(docker exec finder /usr/local/bin/ringway upstreams --json | jq \
        '[.upstreams[] | select(.name == "docker.web") | .targets[] | select(.state == "up")] | length')
    [[ $found == "$1" ]]
}

# What a user may lock is shared by all of its containers.
frugal=(--set server.workers=1 --set buffers.chunks_per_worker=4)

start_web() {
    docker run -d --name "$1" --network private "${confined[@]}" --label ringway.enable=true \
        --label ringway.host=shop.test --label ringway.service=web ringway "${frugal[@]}" >/dev/null
}

shop() {
    curl -s -o /dev/null --max-time 30 -w '%{http_code}' -H 'Host: shop.test' "$found_at/delay/50"
}

test_discovery() {
    begin "containers that come and go are found by their labels, and no request fails"
    docker run -d --name finder --network private "${confined[@]}" \
        --group-add "$(stat -c %g "$scratch/docker.sock")" \
        --volume "$scratch/docker.sock:/var/run/docker.sock" \
        ringway "${frugal[@]}" --set docker.socket=/var/run/docker.sock >/dev/null
    within 60 health_is finder healthy || fail "$(docker logs finder 2>&1)"
    local found_at status asked=0
    found_at=http://$(docker inspect -f '{{.NetworkSettings.Networks.private.IPAddress}}' finder):8000
    start_web web1
    within 60 targets_are 1 || fail "$(docker logs finder 2>&1)"
    status=$(shop)
    [[ $status == 200 ]] || fail "status $status"
    start_web web2
    start_web web3
    within 60 targets_are 3 || fail "$(docker logs finder 2>&1)"
    docker stop -t 40 web1 >/dev/null &
    local stopping=$!
    while kill -0 "$stopping" 2>/dev/null || ((asked < 40)); do
        status=$(shop)
        [[ $status == 200 ]] || fail "status $status after $asked requests: $(docker logs finder 2>&1)"
        asked=$((asked + 1))
    done
    within 30 targets_are 2 || fail "$(docker logs finder 2>&1)"
    docker rm -f web1 web2 web3 >/dev/null
    within 30 targets_are 0 || fail "$(docker logs finder 2>&1)"
    docker rm -f finder >/dev/null
    pass "$asked requests while one was stopped"
}

test_kubernetes_profile() {
    begin "the profile for Kubernetes says the same, and ringway runs under it"
    diff <(jq -S . docker/kubernetes/seccomp.json) \
        <(jq -S -f docker/kubernetes/seccomp.jq docker/seccomp.json) >"$scratch/diff" ||
        fail "$(head -n 20 "$scratch/diff")"
    docker run -d --name kubernetes "${confined[@]:2}" \
        --security-opt seccomp=docker/kubernetes/seccomp.json ringway >/dev/null
    within 60 health_is kubernetes healthy || fail "$(docker logs kubernetes 2>&1)"
    docker rm -f kubernetes >/dev/null
    pass
}

inside() {
    scratch=$1
    # What the build needs, without the gigabytes of a target directory on the way.
    mkdir -p "$scratch/context/docker"
    cp "$2" "$scratch/context/ringway"
    cp -r docker/image "$scratch/context/docker/"
    start_engine
    confine
    test_image
    write_profiles
    test_any_engine
    test_refusals
    test_kubernetes_profile
    start_pair
    test_ceiling
    test_doctor
    test_load
    test_healthcheck
    test_drain
    test_discovery
    printf '%s passed, 0 failed\n' "$passed"
}

if [[ ${1:-} == --inside ]]; then
    shift
    inside "$@"
else
    outside "$@"
fi
