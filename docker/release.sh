#!/usr/bin/env bash
# Makes what a release is made of, in target/release-VERSION:
#
#   ringway-VERSION-ARCH-linux.tar.gz      the static binary with its configuration, units, manual page
#   ringway_VERSION-1_ARCH.deb             the same as a package
#   ringway-VERSION-ARCH-image.tar.gz      the image: docker load < FILE
#   ringway-VERSION-ARCH.cdx.json          what is in it (CycloneDX)
#   SHA256SUMS
#
#   docker/release.sh             builds the binary first (docker/build.sh)
#   docker/release.sh BINARY      takes this static one
#   docker/release.sh --test      installs, verifies, upgrades and purges the package that was made, in
#                                 a root of its own; takes root, dpkg and systemd-analyze
#
# Needs what docker/build.sh needs, and cargo-deb, cargo-cyclonedx, jq. The image needs no engine.
# The same sources and binary make the same bytes: names are sorted, times are SOURCE_DATE_EPOCH.
set -eEuo pipefail
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

# Name, version and licence of each dependency: for this machine's target, and without what only
# builds, tests and benches use.
parts() {
    cargo tree --locked --edges normal --prefix none --format '{p} {l}' |
        sed 's/ (\*)$//; s/ ([^ ]*)//' | sort -u
}

# The parts, and the texts that their packages carry.
licences() {
    local parts part manifest folder text
    parts=$(parts)
    printf '%s\n\n' "$parts"
    cargo metadata --locked --format-version 1 \
        --filter-platform "$(rustc -vV | sed -n 's/^host: //p')" |
        jq -r '.packages[] | "\(.name) v\(.version)\t\(.manifest_path)"' | sort |
        awk -F '\t' 'NR == FNR { split($0, word, " "); linked[word[1] " " word[2]]; next }
            $1 in linked' <(echo "$parts") - |
        while IFS=$'\t' read -r part manifest; do
            folder=$(dirname "$manifest")
            for text in "$folder"/LICEN[CS]E* "$folder"/COPYING* "$folder"/NOTICE*; do
                [[ -f $text ]] || continue
                printf -- '---- %s: %s\n\n' "$part" "$(basename "$text")"
                cat "$text"
                printf '\n'
            done
        done
}

lay_out() {
    rm -rf "$files" "$out"
    mkdir -p "$files/completions" "$out"
    install -m 755 "$binary" "$files/ringway"
    cp config.toml config.schema.json docker/seccomp.json LICENSE "$files"
    cp README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md "$files"
    cp -r examples docs "$files"
    cp docker/systemd/* docker/sysctl.d/60-ringway.conf "$files"
    cp docker/logrotate.d/ringway "$files/ringway.logrotate"
    # The package's binary lies elsewhere than one that is installed by hand, and whose systemd it
    # meets is not known: before 253 there is no notify-reload. A shell's kill, because the program
    # of that name is in a package of its own.
    # shellcheck disable=SC2016 # systemd's variable, not the shell's
    sed -i 's#^ExecStart=/usr/local/bin/#ExecStart=/usr/bin/#
        s#^Type=notify-reload$#Type=notify\nExecReload=/bin/sh -c "kill -HUP $MAINPID"#
        1,/^\[Unit\]/{/^#/d}
        /^# Started when everything listens/,/^# ExecReload would/c # Started when everything listens.' \
        "$files/ringway.service"
    sed -i '1,/^\[Unit\]/{/^#/d}' "$files/ringway.socket"
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
    # As for whoever puts it in its place by hand.
    cp docker/systemd/ringway.service docker/systemd/ringway.socket "target/release-tree/$name/"
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
                "org.opencontainers.image.description": "An io_uring HTTP proxy, reverse and forward",
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
    cargo cyclonedx --format json --spec-version 1.5 --override-filename "ringway-$version.cdx" >/dev/null
    # It lists what cargo could take too, such as tools of builds and features that are off. A number
    # of the run, a time and this folder would make other bytes each time.
    jq --rawfile parts <(parts) --arg here "file://$PWD" '
        ($parts | split("\n") | map(split(" ")[:2] | join(" "))) as $linked
        | .components |= map(select("\(.name) v\(.version)" | IN($linked[])))
        | [.metadata.component, .components[] | ."bom-ref"] as $kept
        | .dependencies |= map(select(.ref | IN($kept[]))
            | if .dependsOn then .dependsOn |= map(select(IN($kept[]))) else . end)
        | del(.serialNumber, .metadata.timestamp)
        | walk(if type == "string" then split($here) | join("file:///ringway") else . end)' \
        "ringway-$version.cdx.json" >"$out/ringway-$version-$arch.cdx.json"
    find . -path ./target -prune -o -name "ringway-$version.cdx.json" -exec rm {} +
}

# An older version of the package, so that there is something to upgrade from: another number, other
# contents of both configuration files, and a file that has gone since.
older_package() {
    local tree=$1/older
    dpkg-deb --raw-extract "$2" "$tree"
    sed -i 's/^Version: .*/Version: 0.0.1-1/' "$tree/DEBIAN/control"
    sed -i '$a # of 0.0.1' "$tree/etc/ringway/config.toml" "$tree/etc/logrotate.d/ringway"
    touch "$tree/usr/share/doc/ringway/gone"
    dpkg-deb -Zgzip -z1 --root-owner-group --build "$tree" "$1/older.deb" >/dev/null
}

# systemd-analyze says what it does not know and goes on: its silence is what is wanted.
verify_units() {
    local root=$1 unit said
    mkdir "$root/units"
    for unit in ringway.service ringway.socket; do
        # With the path of the root, so that the binary is found.
        sed "s#/usr/bin/ringway#$root/usr/bin/ringway#" "$root/usr/lib/systemd/system/$unit" \
            >"$root/units/$unit"
    done
    said=$(systemd-analyze verify "$root/units/ringway.service" "$root/units/ringway.socket" 2>&1) ||
        said+=" (exit code $?)"
    if [[ -n $said ]]; then
        echo "systemd-analyze verify: $said" >&2
        return 1
    fi
    rm -r "$root/units"
}

test_package() {
    local deb folder root left
    deb=$(echo "$out"/*.deb)
    folder=$(mktemp -d /tmp/ringway-package.XXXXXX)
    trap 'echo "docker/release.sh: line $LINENO: not so: $BASH_COMMAND" >&2' ERR
    # shellcheck disable=SC2064 # the name of now
    trap "rm -rf '$folder'" EXIT
    older_package "$folder" "$deb"
    root=$folder/root
    mkdir -p "$root/var/lib/dpkg/"{info,updates,triggers} "$root/etc"
    touch "$root/var/lib/dpkg/"{status,available}
    # Scripts run in this system: there is no systemd in the root that they could tell.
    local dpkg=(dpkg --root="$root" --force-script-chrootless --force-not-root --force-confold)

    "${dpkg[@]}" --install "$folder/older.deb" >/dev/null
    [[ $("$root/usr/bin/ringway" --version) == "ringway $version" ]]
    if command -v systemd-analyze >/dev/null; then
        verify_units "$root"
    else
        echo "note: no systemd-analyze here; the units were not verified"
    fi
    # What an operator has written survives an upgrade; what nobody has touched becomes the new one.
    echo '# mine' >>"$root/etc/ringway/config.toml"
    "${dpkg[@]}" --install "$deb" >/dev/null
    grep -q '^# mine' "$root/etc/ringway/config.toml"
    cmp config.toml "$root/etc/ringway/config.toml.dpkg-dist"
    cmp docker/logrotate.d/ringway "$root/etc/logrotate.d/ringway"
    [[ ! -e $root/usr/share/doc/ringway/gone ]]
    "$root/usr/bin/ringway" check --file-only --config "$root/etc/ringway/config.toml" >/dev/null

    "${dpkg[@]}" --remove ringway >/dev/null
    [[ ! -e $root/usr/bin/ringway && -e $root/etc/ringway/config.toml ]]
    # What the service would have written by now.
    mkdir -p "$root/var/"{log,lib}/private/ringway
    touch "$root/var/log/private/ringway/access.log" "$root/var/lib/private/ringway/account"
    ln -s private/ringway "$root/var/log/ringway"
    ln -s private/ringway "$root/var/lib/ringway"
    "${dpkg[@]}" --purge ringway >/dev/null
    left=$(find "$root" -path "$root/var/lib/dpkg" -prune -o -name '*ringway*' -print)
    [[ -z $left ]] || {
        echo "a purge leaves $left" >&2
        return 1
    }
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
