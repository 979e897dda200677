#!/usr/bin/env bash
# Runs the fuzz targets one after the other.
#
#     tests/fuzz/run.sh [SECONDS [TARGET]...]     all of them, SECONDS each [default: 60]
#     tests/fuzz/run.sh cmin [TARGET]...          keeps of each corpus what leads somewhere of its own
#
# Needs nightly Rust and cargo-fuzz. In go the corpora and dictionaries here; what is found on the way
# is kept in FUZZ_WORK [target/fuzz-work], so that a run goes on where the last one ended. Out comes a
# line for each run in FUZZ_WORK/runs.tsv: when, target, seconds, executions, edges covered, features,
# inputs, and how many times it failed. The exit status is that of the worst one. Nothing here is
# checked for memory errors: all unsafe code is in src/ring, which no target enters.
set -euo pipefail
cd "$(dirname "$0")"
work=${FUZZ_WORK:-$PWD/../../target/fuzz-work}
mkdir -p "$work"
work=$(cd "$work" && pwd)

mode=run seconds=60
case ${1-} in
cmin) mode=cmin; shift ;;
[0-9]*) seconds=$1; shift ;;
esac
targets=("$@")
if ((${#targets[@]} == 0)); then
    for file in fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi

# Those in FUZZ_BIN are built already.
if [[ -z ${FUZZ_BIN-} ]]; then
    (cd ../.. && cargo +nightly fuzz build -s none --fuzz-dir tests/fuzz)
    host=$(rustc +nightly -vV | sed -n 's/^host: //p')
    FUZZ_BIN=${CARGO_TARGET_DIR:-$PWD/target}/$host/release
fi

status=0
for target in "${targets[@]}"; do
    mkdir -p "$work/$target" "$work/failed/$target" "corpus/$target"
    if [[ $mode == cmin ]]; then
        rm -rf "$work/merged" && mkdir "$work/merged"
        "$FUZZ_BIN/$target" -merge=1 "$work/merged" "corpus/$target" "$work/$target" >/dev/null 2>&1
        # The small ones are what a corpus of the repository is for.
        rm -rf "corpus/$target" && mkdir "corpus/$target"
        find "$work/merged" -type f -size -5k -printf '%s %p\n' | sort -n | head -n 300 |
            awk '{ sum += $1; if (sum < 45000) print $2 }' |
            while read -r file; do cp "$file" "corpus/$target/"; done
        printf '%s: %s inputs\n' "$target" "$(find "corpus/$target" -type f | wc -l)"
        continue
    fi
    dictionary=()
    if [[ -f dictionaries/$target.dict ]]; then dictionary=("-dict=$PWD/dictionaries/$target.dict"); fi
    log=$work/$target.log
    failed=0
    "$FUZZ_BIN/$target" "$work/$target" "$PWD/corpus/$target" "${dictionary[@]}" \
        -max_total_time="$seconds" -max_len=4096 -timeout=20 -rss_limit_mb=2048 \
        -artifact_prefix="$work/failed/$target/" -print_final_stats=1 >"$log" 2>&1 || failed=1
    awk -v OFS='\t' -v when="$(date -u +%FT%TZ)" -v target="$target" -v seconds="$seconds" \
        -v failed="$failed" '
        /^#[0-9]+/ { for (i = 1; i < NF; i++) {
            if ($i == "cov:") cov = $(i + 1)
            if ($i == "ft:") ft = $(i + 1)
            if ($i == "corp:") corp = $(i + 1) } }
        /number_of_executed_units/ { done = $2 }
        /Done [0-9]+ runs in/ { seconds = $5 }
        END { print when, target, seconds, done + 0, cov + 0, ft + 0, corp, failed }' "$log" |
        tee -a "$work/runs.tsv"
    if ((failed)); then
        status=1
        grep -a -m 5 -E 'panicked|ERROR|assertion|left|right' "$log" || true
    fi
done
exit "$status"
