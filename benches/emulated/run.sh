#!/usr/bin/env bash
# Instructions for each request, user and kernel together, of ringway, nginx and a bare relay on a
# ring, counted without hardware counters: in an emulator whose clock is the instruction count.
#
#   benches/emulated/run.sh [--ringway FILE]... [--connections "1 8 64"] [--seconds 1] [--idle 8000]
#                        [--drivers "io_uring epoll"]
#
# qemu's TCG with `-icount shift=0` advances the guest's clock by a nanosecond for each instruction,
# so that the processor time that the guest's scheduler gives for a process is the number of
# instructions that were executed for it, interrupts included. Nothing that runs on this machine
# meanwhile changes that. Copies are counted by the element (`rep movs`), where a processor counts
# one instruction: large bodies look dearer than they are, and are not measured here.
#
# Needs qemu-system-x86, busybox-static, cpio, nginx, wrk, openssl and Debian's kernel image, which it
# fetches with apt-get where it may; ends with 77 where one of them cannot be had. Takes some minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=benches/emulated
work=target/emulated
connections="1 8 64" seconds=1 idle=8000 drivers="io_uring epoll" binaries=()
while (($#)); do
    case $1 in
    --ringway) binaries+=("$(realpath "$2")") ;;
    --connections) connections=$2 ;;
    --seconds) seconds=$2 ;;
    --idle) idle=$2 ;;
    --drivers) drivers=$2 ;;
    *)
        echo "emulated: unknown flag $1; see the top of $0" >&2
        exit 2
        ;;
    esac
    shift 2
done

missing() {
    echo "emulated: $1 cannot be had here; see the top of $0" >&2
    exit 77
}
need() {
    local package=$1 tool=$2
    PATH=$PATH:/usr/sbin command -v "$tool" >/dev/null && return
    ((EUID == 0)) && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$package" >/dev/null || missing "$tool"
}
need qemu-system-x86 qemu-system-x86_64
need busybox-static busybox
need cpio cpio
need nginx nginx
need wrk wrk
need gcc cc
need openssl openssl
mkdir -p "$work"

# The kernel that Debian builds for virtual machines: small, and known to everybody.
kernel=$(find "$work" -name 'vmlinuz-*' | head -n 1)
if [[ -z $kernel ]]; then
    package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/ *Depends: //p')
    [[ -n $package ]] || missing "the package linux-image-cloud-amd64"
    (cd "$work" && apt-get download -qq "$package" 2>/dev/null) || missing "$package"
    dpkg-deb --fsys-tarfile "$work"/linux-image-*.deb | tar -x -C "$work" ./boot
    kernel=$(find "$work" -name 'vmlinuz-*' | head -n 1)
fi

if ((${#binaries[@]} == 0)); then
    cargo build --profile dist --locked
    binaries=("$PWD/target/dist/ringway")
fi
floor=$(cargo bench --locked --bench compare --no-run --message-format=json |
    sed -n 's/.*"executable":"\([^"]*compare-[^"]*\)".*/\1/p' | tail -n 1)

# The guest: a root in memory with these programs, what they are linked with, and the script.
root=$work/root
rm -rf "$root"
mkdir -p "$root"/{bin,proc,sys,dev,tmp,etc,w}
add() {
    install -D "$1" "$root/bin/$2"
    # What ldd names by path; a static program has nothing.
    local library
    for library in $(ldd "$1" 2>/dev/null | grep -o '/[^ ]*'); do
        install -D "$library" "$root$library"
    done
}
add "$(command -v busybox)" busybox
add "$(PATH=$PATH:/usr/sbin command -v nginx)" nginx
add "$(command -v wrk)" wrk
add "$floor" floor
cc -O1 -o "$work/resting" "$here/resting.c"
add "$work/resting" resting
for index in "${!binaries[@]}"; do
    add "${binaries[index]}" "ringway-$index"
done
strip "$root"/bin/floor "$root"/bin/ringway-*
echo 'root:x:0:0::/:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"
cp "$here"/origin.conf "$here"/proxy.conf "$here"/ringway.toml "$here"/browser.lua "$root/w/"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost -keyout "$root/w/tls.key" -out "$root/w/tls.pem" 2>/dev/null
install -m 755 "$here/guest.sh" "$root/init"
printf 'connections="%s" seconds=%s idle=%s drivers="%s"\n' "$connections" "$seconds" "$idle" "$drivers" >"$root/w/plan"
(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/root.gz"

# Without fast string operations the kernel copies and clears in loops of few instructions, which
# comes nearer to what a processor counts.
timeout 3600 qemu-system-x86_64 -accel tcg,thread=single -icount shift=0,sleep=off \
    -cpu max,-erms,-fsrm -smp 1 -m 1024 -nographic -no-reboot -net none \
    -kernel "$kernel" -initrd "$work/root.gz" \
    -append 'console=ttyS0 quiet mitigations=off panic=-1' </dev/null >"$work/log" 2>&1 || {
    echo "emulated: the guest did not end by itself; see $work/log" >&2
    exit 1
}

printf 'the kernel is Debian'"'"'s %s\n' "$(tr -d '\r' <"$work/log" | sed -n 's/^.*KERNEL //p')"
for index in "${!binaries[@]}"; do
    printf 'ringway-%s is %s\n' "$index" "${binaries[index]}"
done
# RESULT peer scenario requests instructions
tr -d '\r' <"$work/log" | grep -ao 'RESULT .*' | awk '
    BEGIN { printf "%-12s %-14s %12s %9s\n", "proxy", "scenario", "instructions", "to nginx" }
    { if ($2 == "nginx") base[$3] = $5
      printf "%-12s %-14s %12d %9.3f\n", $2, $3, $5, base[$3] ? $5 / base[$3] : 0 }
    END { exit NR == 0 }' || {
    echo "emulated: the guest has measured nothing; see $work/log" >&2
    exit 1
}
