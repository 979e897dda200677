#!/usr/bin/env python3
"""A long run of everything at once, by which leaks and rare errors are found.

    benches/soak/run.py [--minutes 60] [--ringway FILE] [--load FILE] [--out FOLDER] [--share 0.6]

In goes a program; it runs under 256 MiB at about 60 % of what it can do, with HTTP/1.1 and HTTP/2,
with TLS and without, tunnels, WebSocket, uploads and slow, mute and vanishing clients, while it is
reloaded and upgraded and its origins end and begin anew. Out come `soak.tsv` (a line each second),
`soak.svg`, `errors.txt` and a row for docs/benchmarks/soak.md. It fails if there is an error
that nothing explains, if memory grows, or if descriptors do.

An error is explained by two things only: an origin was killed while it had the request (uploads,
tunnels and WebSocket of the origin that is killed), and a drain was over (tunnels and WebSocket of
the process that an upgrade has replaced). nginx, the other origins, is stopped in order, and a GET
never fails by that.

Needs nginx and openssl. Without the right to make a memory cgroup, the limit is not there, and the
row says so. Everything listens on the loopback alone.
"""
import argparse, asyncio, collections, hashlib, json, os, random, shutil, signal, socket, subprocess
import sys, tempfile, time

from clients import LONG, Clients
from figures import plot, row, slope

MEMORY = 256 << 20
DRAIN = 10
WARM = 60

NGINX = """daemon off; master_process off; pid {dir}/{name}.pid; error_log {dir}/{name}.error crit;
{user} worker_rlimit_nofile 8192; events {{ worker_connections 4096; }}
http {{
    access_log off; sendfile on; keepalive_requests 100000; keepalive_timeout 600s;
    client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;
    uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
    server {{ listen 127.0.0.1:{port} backlog=4096; root {dir}/www;
              location = / {{ return 200 "Hello, World!"; }} location / {{ }} }}
}}
"""
RINGWAY = """[server]
host = "127.0.0.1"
port = {plain}
listen_tls = ["127.0.0.1:{tls}"]
drain_timeout = "{drain}s"
[[tls.certificates]]
chain = "{dir}/cert.pem"
key = "{dir}/key.pem"
[forward]
enabled = true
allow_loopback = true
connect_ports = ["*"]
[memory]
cleanup_mb = 160
max_mb = 200
[log]
level = "warn"
file = "{dir}/ringway.log"
[admin]
enabled = false
[stats]
log = false
[[upstream]]
name = "files"
origins = ["http://127.0.0.1:{a}", "http://127.0.0.1:{b}"]
fail_timeout = "1s"
[[upstream]]
name = "c"
origins = ["http://127.0.0.1:{c}"]
fail_timeout = "1s"
[[route]]
path = "/c/"
upstream = "c"
[[route]]
path = "/"
upstream = "files"
hooks = {{ response_headers = {{ set = {{ X-Turn = "{turn}" }} }} }}
"""


def free_port():
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


class Cgroup:
    """256 MiB for all processes of ringway, where a cgroup can be made."""

    def __init__(self):
        # The second version of cgroups, and the first.
        for known, limit, usage, peak in [
            ("/sys/fs/cgroup/cgroup.controllers", "memory.max", "memory.current", "memory.peak"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "memory.limit_in_bytes",
             "memory.usage_in_bytes", "memory.max_usage_in_bytes"),
        ]:
            if not os.path.exists(known):
                continue
            self.path = f"{os.path.dirname(known)}/ringway-soak-{os.getpid()}"
            try:
                os.mkdir(self.path)
                with open(f"{self.path}/{limit}", "r+") as file:
                    file.write(str(MEMORY))
                self.usage, self.peak = f"{self.path}/{usage}", f"{self.path}/{peak}"
                return
            except OSError:
                if os.path.isdir(self.path):
                    os.rmdir(self.path)
        self.path = None

    def enter(self):
        if self.path:
            with open(f"{self.path}/cgroup.procs", "w") as file:
                file.write(str(os.getpid()))

    def read(self, what):
        try:
            with open(what) as file:
                return int(file.read())
        except (OSError, TypeError, ValueError):
            return 0

    def remove(self):
        try:
            os.rmdir(self.path or "")
        except OSError:
            pass


class Soak:
    def __init__(self, options):
        self.options = options
        self.dir = tempfile.mkdtemp(prefix="ringway-soak-")
        self.user = "user root;" if os.geteuid() == 0 else ""
        self.ports = {name: free_port() for name in ["plain", "tls", "a", "b", "c", "echo"]}
        self.ringway, self.load = f"{self.dir}/ringway", options.load or options.ringway
        shutil.copy(options.ringway, self.ringway)
        os.mkdir(f"{self.dir}/www")
        long = random.randbytes(LONG)
        with open(f"{self.dir}/www/long", "wb") as file:
            file.write(long)
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-days", "2", "-subj", "/CN=soak.example", "-keyout", f"{self.dir}/key.pem",
             "-out", f"{self.dir}/cert.pem"], check=True, stderr=subprocess.DEVNULL)
        self.cgroup = Cgroup()
        self.turn, self.processes = 0, {}
        self.samples, self.marks = [], []
        self.done, self.errors = collections.Counter(), []
        # (from, until, kinds, why)
        self.reasons = []
        digest = hashlib.sha256(long).digest()
        self.clients = Clients(self.ports["plain"], self.ports["tls"], self.ports["echo"], digest)
        self.is_over = False

    def configure(self):
        self.turn += 1
        text = RINGWAY.format(dir=self.dir, drain=DRAIN, turn=self.turn, **self.ports)
        with open(f"{self.dir}/new.toml", "w") as file:
            file.write(text)
        os.rename(f"{self.dir}/new.toml", f"{self.dir}/soak.toml")

    def start_origin(self, name):
        if name == "c":
            here = os.path.dirname(os.path.abspath(__file__))
            command = [sys.executable, f"{here}/origin.py", str(self.ports["c"]),
                       str(self.ports["echo"])]
        else:
            config = f"{self.dir}/{name}.conf"
            with open(config, "w") as file:
                file.write(NGINX.format(dir=self.dir, name=name, user=self.user,
                                        port=self.ports[name]))
            command = ["nginx", "-p", self.dir, "-e", f"{self.dir}/{name}.error", "-c", config]
        self.processes[name] = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    async def wait_for(self, *names):
        for name in names:
            for _ in range(600):
                try:
                    socket.create_connection(("127.0.0.1", self.ports[name]), 1).close()
                    break
                except OSError:
                    await asyncio.sleep(0.05)
            else:
                raise SystemExit(f"soak: nothing listens for {name}")

    def ours(self):
        """Processes of ringway, the youngest last."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{pid}/exe") == self.ringway:
                    with open(f"/proc/{pid}/stat") as file:
                        found.append((int(file.read().rsplit(")", 1)[1].split()[19]), int(pid)))
            except OSError:
                pass
        return [pid for _, pid in sorted(found)]

    def sample(self):
        pids = self.ours()
        if not pids:
            raise SystemExit("soak: ringway has ended")
        try:
            with open(f"/proc/{pids[-1]}/status") as file:
                status = dict(line.split(":", 1) for line in file)
            rss = int(status["VmRSS"].split()[0])
            fds = len(os.listdir(f"/proc/{pids[-1]}/fd"))
        except (OSError, KeyError):
            return
        used = self.cgroup.read(self.cgroup.path and self.cgroup.usage) // 1024
        self.samples.append((time.monotonic() - self.begin, pids[-1], rss, fds, len(pids), used,
                             sum(self.done.values()), len(self.errors)))

    def mark(self, what):
        self.marks.append((time.monotonic() - self.begin, what))

    def error(self, kind, text, began):
        self.errors.append((began, time.monotonic(), kind, text))

    def explained(self):
        """Each error with its reason, if it has one: some are known only when they are over."""
        for began, ended, kind, text in self.errors:
            why = next((why for start, end, kinds, why in self.reasons
                        if kind in kinds and began <= end and ended >= start), None)
            yield ended - self.begin, kind, text, why

    async def repeat(self, kind, pause):
        while not self.is_over:
            began = time.monotonic()
            try:
                await asyncio.wait_for(self.clients.kinds[kind](), 120)
                self.done[kind] += 1
            except Exception as error:
                self.error(kind, f"{type(error).__name__}: {error}", began)
                await asyncio.sleep(1)
            await asyncio.sleep(random.random() * 2 * pause)

    async def bench(self, kind, arguments, seconds, rate=None):
        port = self.ports["tls" if "--insecure" in arguments else "plain"]
        scheme = "https" if "--insecure" in arguments else "http"
        command = [self.load, "bench", f"{scheme}://127.0.0.1:{port}/", *arguments, "--json",
                   "--quiet", "--duration", f"{seconds}s", "--warmup", "1s"]
        command += ["--rate", str(rate)] if rate else []
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        out, _ = await process.communicate()
        report = json.loads(out)
        self.done[kind] += report["requests"]
        bad = {name: count for name, count in report["errors"].items() if count}
        bad |= {name: report["status"][name] for name in ("3xx", "4xx", "5xx")
                if report["status"][name]}
        if bad:
            self.error(kind, f"{bad} of {report['requests']}", began)
        return report

    async def keep_loading(self, kind, arguments, rate):
        while not self.is_over:
            await self.bench(kind, arguments, 20, rate)

    async def every(self, seconds, action):
        await asyncio.sleep(seconds)
        while not self.is_over:
            await action()
            await asyncio.sleep(seconds)

    async def reload(self):
        self.configure()
        self.mark("reload")
        os.kill(self.ours()[-1], signal.SIGHUP)

    async def upgrade(self):
        before = self.ours()
        if len(before) > 1:
            return
        self.mark("upgrade")
        now = time.monotonic()
        os.kill(before[0], signal.SIGUSR2)
        for _ in range(120):
            await asyncio.sleep(0.5)
            if len(self.ours()) > 1 or self.ours() != before:
                break
        else:
            self.error("upgrade", "no new process after 60 s", now)
        ready = time.monotonic()
        self.reasons.append((now, ready + DRAIN + 5, ("tunnel", "websocket"), "a drain was over"))
        while before[0] in self.ours() and time.monotonic() < ready + DRAIN + 20:
            await asyncio.sleep(0.5)
        if before[0] in self.ours():
            self.error("upgrade", "the old process has not ended by its drain", now)

    async def restart(self):
        name = random.choice(["a", "b", "c"])
        process, now = self.processes[name], time.monotonic()
        self.mark(f"restart {name}")
        if name == "c":
            process.kill()
        else:
            process.send_signal(signal.SIGQUIT)
        while process.poll() is None and time.monotonic() < now + 20:
            await asyncio.sleep(0.1)
        if process.poll() is None:
            process.kill()
            process.wait()
        await asyncio.sleep(0.5)
        self.start_origin(name)
        await self.wait_for(name)
        if name == "c":
            kinds = ("upload", "tunnel", "websocket")
            self.reasons.append((now, time.monotonic() + 3, kinds, "the origin was killed"))

    async def sampling(self):
        while True:
            self.sample()
            await asyncio.sleep(1)

    async def run(self):
        for name in "abc":
            self.start_origin(name)
        await self.wait_for("a", "b", "c", "echo")
        self.configure()
        self.begin = time.monotonic()
        self.processes["ringway"] = subprocess.Popen(
            [self.ringway, "--config", f"{self.dir}/soak.toml"], preexec_fn=self.cgroup.enter,
            stdout=subprocess.DEVNULL)
        await self.wait_for("plain", "tls")
        http1 = ["--connections", "48"]
        http2 = ["--connections", "4", "--http2", "--insecure"]
        most = await asyncio.gather(self.bench("http1", http1, 8), self.bench("http2", http2, 8))
        rates = [max(1, int(it["requests_per_second"] * self.options.share)) for it in most]
        print(f"soak: at most {[int(it['requests_per_second']) for it in most]} requests per "
              f"second by http1 and http2; {rates} from now on", flush=True)
        minutes, self.rates = self.options.minutes, rates
        sampling = asyncio.create_task(self.sampling())
        tasks = [asyncio.create_task(it) for it in [
            self.keep_loading("http1", http1, rates[0]),
            self.keep_loading("http2", http2, rates[1]),
            self.keep_loading("handshakes", ["-c", "4", "--insecure", "--no-keepalive"], 20),
            *(self.repeat(kind, pause) for kind, pause in [
                ("upload", 1), ("upload", 1), ("tls", 2), ("tunnel", 0.5), ("tunnel", 0.5),
                ("websocket", 0.5), ("websocket", 0.5), ("slow_head", 0.5), ("slow_reader", 0.5),
                ("mute", 1), ("abort", 1)]),
            self.every(17, self.reload), self.every(41, self.restart),
            self.every(max(100, minutes * 60 / 6), self.upgrade)]]
        stop = asyncio.create_task(asyncio.sleep(minutes * 60))
        await asyncio.wait([stop, sampling], return_when=asyncio.FIRST_COMPLETED)
        self.is_over = True
        _, late = await asyncio.wait(tasks, timeout=200)
        for task in late:
            self.error("soak", f"{task.get_coro()} has not ended", time.monotonic())
        for task in tasks:
            if task.done() and task.exception():
                raise task.exception()
        self.mark("load ends")
        # What rests is given up by pool.idle_expiry.
        await asyncio.sleep(45)
        sampling.cancel()

    def close(self):
        for pid in self.ours():
            os.kill(pid, signal.SIGTERM)
        for name, process in self.processes.items():
            if name != "ringway":
                process.kill()
                process.wait()
        until = time.monotonic() + DRAIN + 10
        while self.ours() and time.monotonic() < until:
            self.processes["ringway"].poll()
            time.sleep(0.2)
        peak = self.cgroup.read(self.cgroup.path and self.cgroup.peak)
        self.cgroup.remove()
        return peak

    def judge(self, peak):
        """The verdict, and the row of a table."""
        out = self.options.out
        os.makedirs(out, exist_ok=True)
        with open(f"{out}/soak.tsv", "w") as file:
            file.write("seconds\tpid\trss_kib\tdescriptors\tprocesses\tcgroup_kib\tdone\terrors\n")
            for sample in self.samples:
                file.write("\t".join(f"{it:.1f}" if isinstance(it, float) else str(it)
                                     for it in sample) + "\n")
        errors = list(self.explained())
        with open(f"{out}/errors.txt", "w") as file:
            for at, kind, text, why in errors:
                file.write(f"{at:.1f}\t{kind}\t{why or 'UNEXPLAINED'}\t{text}\n")
        shutil.copy(f"{self.dir}/ringway.log", f"{out}/ringway.log")
        end = next((at for at, what in self.marks if what == "load ends"), self.samples[-1][0])
        loaded = [it for it in self.samples if it[0] < end]
        rss = slope([(it[0], it[1], it[2]) for it in loaded], WARM)
        fds = slope([(it[0], it[1], it[3]) for it in loaded], WARM)
        unexplained = [it for it in errors if it[3] is None]
        plot(f"{out}/soak.svg", self.samples, self.marks)
        rests = self.samples[-1]
        problems = [f"{len(unexplained)} unexplained errors"] if unexplained else []
        for name, found, unit in [("memory", rss, "KiB"), ("descriptors", fds, "")]:
            if found and found[0] - found[1] > 0 and found[0] * end / 3600 > 0.02 * found[2]:
                problems.append(f"{name} grow by {found[0]:.0f} {unit} an hour")
        print(row(self, rss, fds, peak, rests, unexplained, end))
        print("soak:", "; ".join(problems) or "nothing grows, and every error is explained")
        return 1 if problems else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--ringway", default="target/dist/ringway")
    parser.add_argument("--load", help="what makes the load [default: the same]")
    parser.add_argument("--out", default="target/soak")
    parser.add_argument("--share", type=float, default=0.6, help="of what it can do at most")
    options = parser.parse_args()
    os.environ["PATH"] += ":/usr/sbin"
    soak = Soak(options)
    try:
        asyncio.run(soak.run())
    finally:
        peak = soak.close()
        code = soak.judge(peak) if soak.samples else 1
        shutil.rmtree(soak.dir)
    sys.exit(code)


main()
