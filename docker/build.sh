#!/usr/bin/env bash
# Builds the static binary that goes into the image: target/container/ringway.
#
# The C library is linked in, so that the file runs in an image with nothing else in it. That needs
# no more than what Rust needs anyway: the C compiler and the C library's archive (Debian and Ubuntu:
# libc6-dev, a part of build-essential). The time and the paths of the building machine are left out,
# so that the same compiler makes the same file of the same sources in a folder of the same name; the
# Dockerfile's is always /ringway.
#
# Cargo's own variables hold, such as CARGO_TARGET_DIR and CARGO_PROFILE_DIST_LTO=off for a
# quicker build of a slower binary.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(rustc -vV | sed -n 's/^host: //p')
case $target in
*-linux-gnu) ;;
*)
    echo "docker/build.sh: $target is not a Linux with glibc" >&2
    exit 1
    ;;
esac

# Named for the target, so that they add to .cargo/config.toml and leave build scripts alone.
flags=CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$target")_RUSTFLAGS
export "$flags=${!flags:-} -C target-feature=+crt-static \
--remap-path-prefix=$PWD=/ringway --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
export CFLAGS="${CFLAGS:-} -ffile-prefix-map=${CARGO_HOME:-$HOME/.cargo}=/cargo"
# What C's __DATE__ and __TIME__ say.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-0}

cargo build --profile dist --locked --bin ringway --target "$target"

built=${CARGO_TARGET_DIR:-target}/$target/dist/ringway
if grep -q 'ld-linux\|ld64.so' < <(head -c 4096 "$built"); then
    # RUSTFLAGS in the environment takes the place of all other flags.
    echo "docker/build.sh: $built is not static; unset RUSTFLAGS" >&2
    exit 1
fi
mkdir -p target/container
cp "$built" target/container/ringway
ls -l target/container/ringway
