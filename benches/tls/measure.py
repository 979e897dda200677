#!/usr/bin/env python3
"""What TLS costs in ringway and in nginx, with the same certificates, in the same run.

    benches/tls/measure.py [PART]... [--ringway FILE] [--load FILE] [--rounds 7] [--seconds 2]

PARTs: instructions, small, bulk, ecdsa, rsa, resumed, idle, storm [default: all of them].

In go two programs and certificates that are made here; out comes a table. `instructions` are user
instructions under callgrind for one request or handshake, as the difference of a long and a short
run: they do not depend on what else runs here. The others are processor time for one request by
schedstat (`ringway bench --pid`), bytes, and latencies: the two proxies take turns in rounds, each
beginning every other one, and the ratio is the median of those within the rounds. The proxies have
the first core, load and origin the last. Everything listens on the loopback alone.

Needs nginx, openssl, taskset, and valgrind for `instructions`.
"""
import argparse, json, os, re, shutil, signal, socket, statistics, subprocess, tempfile, time

PARTS = ["instructions", "small", "bulk", "ecdsa", "rsa", "resumed", "idle", "storm"]
os.environ["PATH"] += ":/usr/sbin"
cores = sorted(os.sched_getaffinity(0))
PROXY_CORE, LOAD_CORE = cores[0], cores[-1]

NGINX = """daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/nginx.error crit; {user}
events {{ worker_connections 32768; }}
http {{
    access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
    client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;
    uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
    upstream origin {{
        server 127.0.0.1:{origin};
        keepalive 1024; keepalive_requests 1000000000; keepalive_timeout 600s;
    }}
    server {{
        listen 127.0.0.1:{plain} backlog=4096; listen 127.0.0.1:{tls} ssl backlog=4096;
        ssl_certificate {key}.pem; ssl_certificate_key {key}.key; ssl_protocols TLSv1.2 TLSv1.3;
        location / {{
            proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_max_temp_file_size 0;
        }}
    }}
}}
"""
ORIGIN = """daemon off; master_process off; pid {dir}/origin.pid; error_log {dir}/origin.error crit; {user}
events {{ worker_connections 32768; }}
http {{
    access_log off; sendfile on; tcp_nopush on; open_file_cache max=100;
    keepalive_requests 1000000000; keepalive_timeout 600s;
    client_body_temp_path {dir}/ob; proxy_temp_path {dir}/op; fastcgi_temp_path {dir}/of;
    uwsgi_temp_path {dir}/ou; scgi_temp_path {dir}/os;
    server {{
        listen 127.0.0.1:{origin} backlog=4096; root {dir}/www;
        location = / {{ return 200 "Hello, World!"; }}
        location / {{ }}
    }}
}}
"""
RINGWAY = """[server]
host = "127.0.0.1"
port = {plain}
workers = 1
listen_tls = ["127.0.0.1:{tls}"]
[[tls.certificates]]
chain = "{key}.pem"
key = "{key}.key"
[limits]
clients = 20000
[timeouts]
client_idle = "10m"
read = "10m"
[pool]
max_connections = 2048
max_idle = 1024
idle_expiry = "10m"
prewarm = 0
[log]
level = "error"
[[upstream]]
name = "origin"
origins = ["http://127.0.0.1:{origin}"]
[memory]
cleanup_mb = 6000
max_mb = 8000
[admin]
enabled = false
[stats]
log = false
"""


def free_port():
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


def wait_for(port, process):
    for _ in range(3000):
        if process.poll() is not None:
            raise SystemExit(f"measure: {process.args} has ended by itself")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise SystemExit(f"measure: nothing listens on {port}")


class Proxy:
    """A proxy that runs, natively or under callgrind."""

    def __init__(self, place, name, key="ecdsa", counted=False):
        self.name = name
        self.plain, self.tls = free_port(), free_port()
        self.counts = f"{place.dir}/counts.{self.plain}"
        values = {"dir": place.dir, "user": place.user, "origin": place.origin,
                  "plain": self.plain, "tls": self.tls, "key": f"{place.dir}/{key}"}
        template = NGINX if name == "nginx" else RINGWAY
        config = f"{place.dir}/{name}.{self.plain}"
        with open(config, "w") as file:
            file.write(template.format(**values))
        command = ["taskset", "-c", str(PROXY_CORE)]
        if counted:
            command += ["valgrind", "-q", "--tool=callgrind",
                        f"--callgrind-out-file={self.counts}"]
        if name == "nginx":
            command += ["nginx", "-p", place.dir, "-e", f"{place.dir}/nginx.error", "-c", config]
        else:
            command += [place.ringway, "--config", config]
        # taskset becomes what it starts, so that the process is the proxy.
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL if counted else None)
        wait_for(self.tls, self.process)

    def url(self, path="/", is_tls=True):
        return f"http{'s' if is_tls else ''}://127.0.0.1:{self.tls if is_tls else self.plain}{path}"

    def rss(self):
        with open(f"/proc/{self.process.pid}/status") as file:
            return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1]) * 1024

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def counted(self):
        """Instructions of the whole run, which has been stopped."""
        total = 0
        for name in os.listdir(os.path.dirname(self.counts)):
            if name.startswith(os.path.basename(self.counts)):
                with open(os.path.join(os.path.dirname(self.counts), name)) as file:
                    found = re.findall(r"^(?:summary|totals): (\d+)", file.read(), re.M)
                total += int(found[0]) if found else 0
        return total


class Place:
    """Folder, certificates and origin."""

    def __init__(self, options):
        base = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self.dir = tempfile.mkdtemp(prefix="ringway-tls-", dir=base)
        self.ringway, self.load = options.ringway, options.load or options.ringway
        self.user = "user root;" if os.geteuid() == 0 else ""
        self.origin = free_port()
        for name, kind in [("ecdsa", ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]),
                           ("rsa", ["rsa:2048"])]:
            subprocess.run(["openssl", "req", "-x509", "-newkey", *kind, "-nodes", "-days", "30",
                            "-subj", "/CN=localhost", "-addext",
                            "subjectAltName=DNS:localhost,IP:127.0.0.1",
                            "-keyout", f"{self.dir}/{name}.key", "-out", f"{self.dir}/{name}.pem"],
                           check=True, stderr=subprocess.DEVNULL)
        os.mkdir(f"{self.dir}/www")
        with open(f"{self.dir}/www/1m", "wb") as file:
            file.write((b"0123456789 ringway\n" * 60000)[:1 << 20])
        with open(f"{self.dir}/origin.conf", "w") as file:
            file.write(ORIGIN.format(dir=self.dir, user=self.user, origin=self.origin))
        self.process = subprocess.Popen(
            ["taskset", "-c", str(LOAD_CORE), "nginx", "-p", self.dir,
             "-e", f"{self.dir}/origin.error", "-c", f"{self.dir}/origin.conf"])
        wait_for(self.origin, self.process)

    def command(self, *words):
        return ["taskset", "-c", str(LOAD_CORE), self.load, "bench", *map(str, words),
                "--json", "--quiet", "--timeout", "60s"]

    def bench(self, url, *words):
        words = [*words] + (["--insecure"] if url.startswith("https") else [])
        return self.read(subprocess.run(self.command(url, *words), stdout=subprocess.PIPE))

    @staticmethod
    def read(done):
        report = json.loads(done.stdout)
        if report["error_rate"] > 0 or report["status"]["2xx"] < report["requests"]:
            raise SystemExit(f"measure: not every request was answered: {report}")
        return report

    def end(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


def say(name, ours, theirs, budget, unit, note=""):
    ratio = f"{ours / theirs:6.2f}" if theirs else "     -"
    print(f"{name:<34} {ours:>12.0f} {theirs:>12.0f} {unit:<7} {ratio}  {budget:<8} {note}",
          flush=True)


COUNTED = {
    # name: TLS, certificate, flags, short, long, budget
    "plain": (False, "ecdsa", ["-c", 64], 300, 2300, ""),
    "small": (True, "ecdsa", ["-c", 64], 300, 2300, "0.40"),
    "ecdsa": (True, "ecdsa", ["-c", 4, "--no-keepalive", "--no-resumption"], 20, 120, ""),
    "rsa": (True, "rsa", ["-c", 4, "--no-keepalive", "--no-resumption"], 20, 120, ""),
    "resumed": (True, "ecdsa", ["-c", 4, "--no-keepalive"], 20, 220, ""),
}


def instructions(place, only):
    found = {}
    for name, (is_tls, key, flags, short, long, budget) in COUNTED.items():
        if only and name not in only:
            continue
        each = {}
        for proxy_name in ["ringway", "nginx"]:
            totals = []
            for count in [short, long]:
                proxy = Proxy(place, proxy_name, key, counted=True)
                place.bench(proxy.url("/", is_tls), "-n", count, *flags)
                proxy.stop()
                totals.append(proxy.counted())
            each[proxy_name] = (totals[1] - totals[0]) / (long - short)
        found[name] = each
        say(f"instructions {name}", each["ringway"], each["nginx"], budget, "")
    if "plain" in found and "small" in found:
        more = {peer: found["small"][peer] - found["plain"][peer] for peer in found["plain"]}
        say("instructions: TLS over plain", more["ringway"], more["nginx"], "<= 6500", "")


def rounds(place, options, name, key, path, flags, budget):
    proxies = [Proxy(place, it, key) for it in ["ringway", "nginx"]]
    figures = {it.name: [] for it in proxies}
    for proxy in proxies:
        place.bench(proxy.url(path), "-n", 50, "-c", 8, *[it for it in flags if it != "-c"][1:])
    for number in range(options.rounds):
        for proxy in proxies[::1 if number % 2 else -1]:
            report = place.bench(proxy.url(path), "-d", f"{options.seconds}s", "--warmup", "300ms",
                                 "--pid", proxy.process.pid, *flags)
            figures[proxy.name].append(report["target"]["cpu_us_per_request"])
    for proxy in proxies:
        proxy.stop()
    ratios = [a / b for a, b in zip(figures["ringway"], figures["nginx"])]
    middle = {it: statistics.median(figures[it]) for it in figures}
    note = f"ratios: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}"
    say(name, middle["ringway"], middle["nginx"], budget, "µs CPU", note)


def idle(place, options):
    each = {}
    count = options.idle
    for name in ["ringway", "nginx"]:
        proxy = Proxy(place, name)
        place.bench(proxy.url(), "-n", 400, "-c", 64)
        before = proxy.rss()
        report = place.bench(proxy.url(), "--idle", "-c", count, "-d", "6s",
                             "--pid", proxy.process.pid)
        if report["idle"]["lost"]:
            raise SystemExit(f"measure: {name} has lost idle connections")
        each[name] = (report["target"]["rss_bytes"] - before) / count
        proxy.stop()
    say(f"idle connection, of {count}", each["ringway"], each["nginx"], "4500", "bytes")


def storm(place, options):
    proxies = [Proxy(place, it, "rsa") for it in ["ringway", "nginx"]]
    figures = {it.name: [] for it in proxies}
    for number in range(options.rounds):
        for proxy in proxies[::1 if number % 2 else -1]:
            crowd = subprocess.Popen(
                place.command(proxy.url(), "-c", 16, "--no-keepalive", "--no-resumption",
                              "--insecure", "-d", f"{options.seconds + 2}s", "--warmup", "0s"),
                stdout=subprocess.PIPE)
            time.sleep(0.5)
            report = place.bench(proxy.url(), "-c", 1, "-d", f"{options.seconds}s",
                                 "--warmup", "300ms")
            out, _ = crowd.communicate()
            rate = json.loads(out)["tls"]["handshakes_per_second"]
            figures[proxy.name].append((report["latency_us"]["p50"], report["latency_us"]["p99"],
                                        rate))
    for proxy in proxies:
        proxy.stop()
    for index, (name, budget, unit) in enumerate([("storm: median", "0.35", "µs"),
                                                  ("storm: p99", "0.60", "µs"),
                                                  ("storm: handshakes", "", "/s")]):
        ours, theirs = ([row[index] for row in figures[it]] for it in ["ringway", "nginx"])
        ratios = [a / b for a, b in zip(ours, theirs)]
        say(name, statistics.median(ours), statistics.median(theirs), budget, unit,
            f"ratios: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--ringway", default="target/dist/ringway")
    parser.add_argument("--load", help="whose `bench` makes the load [default: the same]")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--idle", type=int, default=5000)
    parser.add_argument("--counted", default="", help="of `instructions`: " + ", ".join(COUNTED))
    options = parser.parse_args()
    unknown = [it for it in options.parts if it not in PARTS]
    if unknown:
        parser.error(f"there is no {unknown[0]}")
    if options.seconds == int(options.seconds):
        options.seconds = int(options.seconds)
    place = Place(options)
    full = ["-c", 8, "--no-keepalive", "--no-resumption"]
    try:
        print(f"{'':<34} {'ringway':>12} {'nginx':>12} {'':<7}  ratio  budget")
        for part in options.parts:
            if part == "instructions":
                instructions(place, [it for it in options.counted.split(",") if it])
            elif part == "small":
                rounds(place, options, "small, keep-alive, 64 conns", "ecdsa", "/", ["-c", 64],
                       "0.60")
            elif part == "bulk":
                rounds(place, options, "1 MiB, 8 conns", "ecdsa", "/1m", ["-c", 8], "0.60")
            elif part == "ecdsa":
                rounds(place, options, "full handshake, ECDSA", "ecdsa", "/", full, "0.65")
            elif part == "rsa":
                rounds(place, options, "full handshake, RSA", "rsa", "/", full, "0.85")
            elif part == "resumed":
                rounds(place, options, "resumed handshake", "ecdsa", "/",
                       ["-c", 8, "--no-keepalive"], "0.65")
            elif part == "idle":
                idle(place, options)
            elif part == "storm":
                storm(place, options)
    finally:
        place.end()


main()
