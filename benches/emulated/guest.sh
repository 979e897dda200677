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
    kill $pid
    wait $pid 2>/dev/null
}

nginx -p /tmp -e /tmp/origin.error -c /w/origin.conf &
sleep 0.3
try nginx 9310 nginx -p /tmp -e /tmp/proxy.error -c /w/proxy.conf
try floor 9311 floor --run-floor 127.0.0.1:9311 127.0.0.1:9900
port=9320
for ringway in /bin/ringway-*; do
    port=$((port + 1))
    try "${ringway#/bin/}" $port "$ringway" --port $port --upstream http://127.0.0.1:9900 --workers 1
done
poweroff -f
