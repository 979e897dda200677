#!/bin/sh
# Has testssl.sh, and sslyze where it is there, grade a ringway with its standard settings.
#
#   tests/tls-grade.sh [RINGWAY]        target/debug/ringway, if nothing else is named
#
# It makes a certificate that signs itself, so that what is said of its trust is left out; anything
# else of MEDIUM or worse is printed and ends this with 1. Exit code 2: testssl.sh is not installed
# (`apt-get install testssl.sh`; for sslyze `pip install sslyze`, or SSLYZE=/path/to/sslyze).
set -eu

ringway=$(realpath "${1:-$(dirname "$0")/../target/debug/ringway}")
testssl=$(command -v testssl || command -v testssl.sh) || {
    echo "skipped: testssl.sh is not installed" >&2
    exit 2
}
sslyze=${SSLYZE:-$(command -v sslyze || true)}

home=$(mktemp -d)
trap 'kill "$pid" 2>/dev/null || true; rm -rf "$home"' EXIT
pid=
cd "$home"

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 90 \
    -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
    -addext basicConstraints=critical,CA:false -addext extendedKeyUsage=serverAuth \
    -keyout own.key -out own.pem 2>openssl.log || { cat openssl.log >&2; exit 1; }
# The fields of answers are an application's affair; all that is of TLS has its standard values.
cat >config.toml <<'EOF'
[server]
host = "127.0.0.1"
port = 0
listen_tls = ["127.0.0.1:0"]
[admin]
enabled = false
[hooks]
security_headers = {}
[[tls.certificates]]
chain = "own.pem"
key = "own.key"
EOF
"$ringway" --config config.toml >ringway.log 2>&1 &
pid=$!
address=
for _ in $(seq 100); do
    address=$(sed -n 's/.*listening, with TLS address=\([0-9.:]*\).*/\1/p' ringway.log)
    [ -n "$address" ] && break
    sleep 0.1
done
[ -n "$address" ] || { cat ringway.log >&2; exit 1; }

# Without --fast: every cipher and every known hole, and no name server is asked.
"$testssl" --quiet --color 0 --warnings off --nodns none --severity MEDIUM \
    --jsonfile testssl.json "https://localhost:${address##*:}" >testssl.log 2>&1 || true
grep -q '"id"' testssl.json || { cat testssl.log >&2; exit 1; }

# What a certificate of one's own has, whoever shows it: nobody vouches for it or takes it back.
found=$(tr -d '\n' <testssl.json | sed 's/}/}\n/g' |
    grep -E '"severity" *: *"(MEDIUM|HIGH|CRITICAL|WARN|FATAL)"' |
    grep -vE '"id" *: *"(cert_chain_of_trust|cert_trust|cert_revocation|cert_crlDistributionPoints|cert_ocspURL|DNS_CAArecord|cert_notRevoked|overall_grade|grade_cap_reason_[0-9]+|engine_problem|old_fart|scanTime)' ||
    true)
status=0
if [ -n "$found" ]; then
    echo "testssl.sh found:"
    echo "$found"
    status=1
else
    echo "testssl.sh found nothing of MEDIUM or worse"
fi

if [ -n "$sslyze" ]; then
    "$sslyze" --mozilla_config=intermediate --sslv2 --sslv3 --heartbleed --openssl_ccs --robot \
        --reneg --compression --fallback --early_data --elliptic_curves --tlsv1 --tlsv1_1 --tlsv1_2 \
        --tlsv1_3 --resum "localhost:${address##*:}" >sslyze.log 2>&1 || true
    if grep -qE 'OK - Not vulnerable to Heartbleed' sslyze.log; then
        bad=$(grep -E 'VULNERABLE|WARNING' sslyze.log | grep -vi 'certificate' || true)
        bad="$bad$(sed -n '/COMPLIANCE/,$p' sslyze.log | grep -E '^ *\* ' |
            grep -viE 'certificate|maximum_certificate_lifespan|rsa_key_size' || true)"
        if [ -n "$bad" ]; then
            echo "sslyze found:"
            echo "$bad"
            status=1
        else
            echo "sslyze found nothing"
        fi
        [ "${VERBOSE:-}" ] && cat sslyze.log
    else
        cat sslyze.log >&2
        status=1
    fi
fi
[ "${VERBOSE:-}" ] && cat testssl.log
exit "$status"
