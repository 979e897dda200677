#!/bin/busybox sh
# The whole life of the emulated machine: starts an origin, then each proxy in turn, and prints a
# line for each scenario: RESULT proxy scenario requests instructions-for-each.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
ifconfig lo up
ulimit -n 20000
ulimit -l unlimited
. /w/plan
echo "KERNEL $(uname -r)"

# Nanoseconds, which are instructions here, that the process has had.
spent() {
    sum=0
    for task in /proc/"$1"/task/*/schedstat; do
        read -r ns _ <"$task"
        sum=$((sum + ns))
    done
    echo $sum
}

# measure PROXY SCENARIO PID WRK-ARGUMENTS...
measure() {
    proxy=$1 scenario=$2 pid=$3
    shift 3
    wrk -t1 -d1s "$@" >/dev/null
    before=$(spent "$pid")
    count=$(wrk -t1 -d"${seconds}s" "$@" | awk '/requests in/ { print $1 } /Non-2xx|Socket/ { print "errors" }')
    after=$(spent "$pid")
    case $count in
    *errors*|'') echo "$proxy $scenario: not every request was answered" ;;
    *) echo "RESULT $proxy $scenario $count $(((after - before) / count))" ;;
    esac
}

# try PROXY PORT COMMAND...
try() {
    proxy=$1 port=$2
    shift 2
    "$@" >/tmp/"$proxy".log 2>&1 &
    pid=$!
    sleep 0.5
    for c in $connections; do
        measure "$proxy" "keep-alive-$c" $pid -c"$c" "http://127.0.0.1:$port/"
    done
    measure "$proxy" reconnect-8 $pid -c8 -H 'Connection: close' "http://127.0.0.1:$port/"
    for c in $connections; do
        measure "$proxy" "browser-$c" $pid -c"$c" -s /w/browser.lua "http://127.0.0.1:$port/"
    done
    # Everybody has the same certificate; the floor has none.
    if [ "$proxy" != floor ]; then
        measure "$proxy" tls-8 $pid -c8 https://127.0.0.1:9443/
    fi
    # It says "holding" once all are connected, and holds them until it is ended.
    rm -f /tmp/resting.log
    resting 127.0.0.1:"$port" "$idle" >/tmp/resting.log 2>&1 &
    holder=$!
    tries=0
    until grep -qs holding /tmp/resting.log || [ $((tries += 1)) -gt 300 ]; do sleep 0.1; done
    if grep -qs holding /tmp/resting.log; then
        # Long enough that they rest.
        sleep 2
        measure "$proxy" "64-beside-$idle" $pid -c64 "http://127.0.0.1:$port/"
    else
        echo "$proxy beside-$idle: not every connection was held: $(cat /tmp/resting.log)"
    fi
    kill $holder
    wait $holder 2>/dev/null
    kill $pid
    wait $pid 2>/dev/null
}

nginx -p /tmp -e /tmp/origin.error -c /w/origin.conf &
sleep 0.3
try nginx 9310 nginx -p /tmp -e /tmp/proxy.error -c /w/proxy.conf
try floor 9311 floor --run-floor 127.0.0.1:9311 127.0.0.1:9900
port=9320
for ringway in /bin/ringway-*; do
    for driver in $drivers; do
        port=$((port + 1)) name=${ringway#/bin/}
        # Only the other one is named, so that figures of earlier runs keep their rows.
        [ "$driver" = io_uring ] || name=$name-$driver
        try "$name" $port "$ringway" --config /w/ringway.toml --port $port \
            --upstream http://127.0.0.1:9900 --workers 1 --set server.driver=\""$driver"\"
    done
done
poweroff -f
