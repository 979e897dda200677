#!/usr/bin/env bash
# Makes what a release is made of, in target/release-VERSION:
#
#   ringway-VERSION-ARCH-linux.tar.gz      the static binary with its configuration, units, manual page
#   ringway_VERSION-1_ARCH.deb             the same as a package
#   ringway-VERSION-ARCH-image.tar.gz      the image: docker load < FILE
#   ringway-VERSION.cdx.json               what is in it (CycloneDX)
#   SHA256SUMS
#
#   docker/release.sh             builds the binary first (docker/build.sh)
#   docker/release.sh BINARY      takes this static one
#   docker/release.sh --test      installs, verifies, upgrades and purges the package that was made, in
#                                 a root of its own; takes root, dpkg and systemd-analyze
#
# Needs what docker/build.sh needs, and cargo-deb, cargo-cyclonedx, jq. The image needs no engine.
# The same sources and binary make the same bytes: names are sorted, times are SOURCE_DATE_EPOCH.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
arch=$(uname -m)
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
out=target/release-$version
files=target/release-files
name=ringway-$version-$arch-linux

need() {
    local tool
    for tool; do
        command -v "$tool" >/dev/null || {
            echo "docker/release.sh: $tool is missing (cargo install or apt-get install $tool)" >&2
            exit 1
        }
    done
}

# One file of a folder, the same bytes each time.
pack() {
    tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" \
        --format=gnu -C "$2" -cf - "${@:3}" | gzip -n9 >"$1"
}

# Names and licences of what is linked in, and the texts that its packages carry.
licences() {
    local manifest folder text
    # For this machine's target and without what only tests and benches use.
    cargo tree --locked --edges normal --prefix none --format '{p} {l}' | sed 's/ (\*)$//; s/ ([^ ]*)//' | sort -u
    printf '\n'
    cargo metadata --locked --format-version 1 | jq -r '.packages[].manifest_path' | sort |
        while read -r manifest; do
            folder=$(dirname "$manifest")
            for text in "$folder"/LICEN[CS]E* "$folder"/COPYING* "$folder"/NOTICE*; do
                [[ -f $text ]] || continue
                printf -- '---- %s: %s\n\n' "$(basename "$folder")" "$(basename "$text")"
                cat "$text"
                printf '\n'
            done
        done
}

lay_out() {
    rm -rf "$files" "$out"
    mkdir -p "$files/completions" "$out"
    install -m 755 "$binary" "$files/ringway"
    cp config.toml config.schema.json README.md CHANGELOG.md LICENSE docker/seccomp.json "$files"
    cp -r examples "$files"
    cp docker/systemd/* docker/sysctl.d/60-ringway.conf "$files"
    cp docker/logrotate.d/ringway "$files/ringway.logrotate"
    # The package's binary lies elsewhere than one that is installed by hand.
    sed -i 's#^ExecStart=/usr/local/bin/#ExecStart=/usr/bin/#; 1,/^\[Unit\]/{/^#/d}' "$files/ringway.service"
    "$files/ringway" man >"$files/ringway.1"
    "$files/ringway" completions bash >"$files/completions/ringway.bash"
    "$files/ringway" completions zsh >"$files/completions/_ringway"
    "$files/ringway" completions fish >"$files/completions/ringway.fish"
    licences >"$files/licences.txt"
}

archive() {
    rm -rf "target/release-tree"
    mkdir -p "target/release-tree"
    cp -r "$files" "target/release-tree/$name"
    # Where it is put by hand.
    cp docker/systemd/ringway.service "target/release-tree/$name/"
    pack "$out/$name.tar.gz" target/release-tree "$name"
    rm -rf "target/release-tree"
}

package() {
    cargo deb --no-build --no-strip --locked --output "$out/" >/dev/null
}

# As `docker save` writes it: one layer, and what docker/prebuilt.Dockerfile says of it.
image() {
    local folder=target/release-image layer id platform
    case $arch in
    x86_64) platform=amd64 ;;
    aarch64) platform=arm64 ;;
    *) platform=$arch ;;
    esac
    rm -rf "$folder"
    mkdir -p "$folder/tree/usr/local/bin" "$folder/tree/etc/ringway"
    install -m 755 "$binary" "$folder/tree/usr/local/bin/ringway"
    install -m 644 docker/image/config.toml "$folder/tree/etc/ringway/config.toml"
    tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" --format=gnu \
        -C "$folder/tree" -cf "$folder/layer.tar" usr etc
    layer=$(sha256sum "$folder/layer.tar" | cut -d' ' -f1)
    mkdir "$folder/image"
    mv "$folder/layer.tar" "$folder/image/$layer.tar"
    jq -n --arg version "$version" --arg layer "sha256:$layer" --arg arch "$platform" \
        --arg created "$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)" '{
        architecture: $arch, os: "linux", created: $created,
        config: {
            User: "65532:65532", WorkingDir: "/etc/ringway", StopSignal: "SIGTERM",
            ExposedPorts: { "8000/tcp": {} }, Entrypoint: ["/usr/local/bin/ringway"],
            Healthcheck: {
                Test: ["CMD", "/usr/local/bin/ringway", "health"],
                Interval: 10000000000, Timeout: 5000000000, StartPeriod: 10000000000, Retries: 3
            },
            Labels: {
                "org.opencontainers.image.title": "ringway",
                "org.opencontainers.image.licenses": "MIT",
                "org.opencontainers.image.version": $version
            }
        },
        rootfs: { type: "layers", diff_ids: [$layer] },
        history: [{ created: $created, created_by: "docker/release.sh" }]
    }' >"$folder/config.json"
    id=$(sha256sum "$folder/config.json" | cut -d' ' -f1)
    mv "$folder/config.json" "$folder/image/$id.json"
    jq -n --arg id "$id.json" --arg tag "ringway:$version" --arg layer "$layer.tar" \
        '[{ Config: $id, RepoTags: [$tag, "ringway:latest"], Layers: [$layer] }]' \
        >"$folder/image/manifest.json"
    pack "$out/ringway-$version-$arch-image.tar.gz" "$folder/image" manifest.json "$id.json" "$layer.tar"
    rm -rf "$folder"
}

bill() {
    cargo cyclonedx --format json --override-filename "ringway-$version.cdx" >/dev/null
    # A number of the run and a time would make other bytes each time.
    jq 'del(.serialNumber, .metadata.timestamp)' "ringway-$version.cdx.json" >"$out/ringway-$version.cdx.json"
    find . -path ./target -prune -o -name "ringway-$version.cdx.json" -exec rm {} +
}

test_package() {
    local root deb unit
    root=$(mktemp -d /tmp/ringway-root.XXXXXX)
    deb=$(echo "$out"/*.deb)
    mkdir -p "$root/var/lib/dpkg/"{info,updates,triggers} "$root/usr/bin" "$root/bin"
    touch "$root/var/lib/dpkg/"{status,available}
    # Scripts run in this system: there is no systemd in the root that they could tell.
    local dpkg=(dpkg --root="$root" --force-script-chrootless --force-not-root --force-architecture)
    "${dpkg[@]}" --install "$deb" >/dev/null
    [[ $("$root/usr/bin/ringway" --version) == "ringway $version" ]]
    "$root/usr/bin/ringway" check --file-only --config "$root/etc/ringway/config.toml" >/dev/null
    if command -v systemd-analyze >/dev/null; then
        # With the paths of the root, so that the binary is found.
        mkdir "$root/units"
        for unit in ringway.service ringway.socket; do
            sed "s#/usr/bin/ringway#$root/usr/bin/ringway#" "$root/usr/lib/systemd/system/$unit" \
                >"$root/units/$unit"
        done
        systemd-analyze verify "$root/units/ringway.service" "$root/units/ringway.socket"
    else
        echo "note: no systemd-analyze here; the units were not verified"
    fi
    # What an operator has written survives an upgrade, and a purge takes everything.
    echo '# mine' >>"$root/etc/ringway/config.toml"
    "${dpkg[@]}" --install "$deb" >/dev/null
    grep -q '^# mine' "$root/etc/ringway/config.toml"
    "${dpkg[@]}" --remove ringway >/dev/null
    [[ ! -e $root/usr/bin/ringway && -e $root/etc/ringway/config.toml ]]
    "${dpkg[@]}" --purge ringway >/dev/null
    [[ ! -e $root/etc/ringway ]]
    rm -rf "$root"
    echo "the package was installed, verified, upgraded, removed and purged"
}

if [[ ${1:-} == --test ]]; then
    need dpkg
    test_package
    exit
fi
need cargo-deb cargo-cyclonedx jq
binary=${1:-target/container/ringway}
(($#)) || docker/build.sh
lay_out
archive
package
image
bill
(cd "$out" && sha256sum -- * >SHA256SUMS)
ls -l "$out"
