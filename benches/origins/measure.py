#!/usr/bin/env python3
"""What many origins cost while nobody asks for anything: processor time of checks, and memory.

    benches/origins/measure.py --ringway FILE [--origins 1000] [--seconds 60] [--json]

In goes a ringway; out come two tables. The first is the processor time (/proc/PID/stat) of a
process with two workers and so many origins that are checked every 5 s by a path, and of one that
checks nothing. The second is resident memory and what the ledger counts, with no, with so many and
with twice as many origins, checked and after all of them have been asked once. The origins are
addresses of the loopback (127.0.x.y), all of one process here; nothing else is listened on or
spoken to.
"""
import argparse, asyncio, json, os, re, resource, signal, socket, subprocess, tempfile, threading
import time
import urllib.request

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HERTZ = os.sysconf("SC_CLK_TCK")
EVERY_S = 5


def addresses(count):
    return [f"127.0.{1 + number // 250}.{1 + number % 250}" for number in range(count)]


class Origins:
    """All of them in one process; `served` counts what they have answered."""

    def __init__(self, count):
        self.served = 0
        self.port = 0
        ready = threading.Event()
        self.sockets = []
        for address in addresses(count):
            listener = socket.create_server((address, self.port), backlog=64)
            self.port = self.port or listener.getsockname()[1]
            self.sockets.append(listener)
        threading.Thread(target=lambda: asyncio.run(self.serve(ready)), daemon=True).start()
        ready.wait()

    async def serve(self, ready):
        await asyncio.start_server(self.answer, sock=self.sockets[0])
        for listener in self.sockets[1:]:
            await asyncio.start_server(self.answer, sock=listener)
        ready.set()
        await asyncio.Event().wait()

    async def answer(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.served += 1
                writer.write(ANSWER)
                if b"connection: close" in head.lower():
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()


class Ringway:
    def __init__(self, program, folder, port, count, is_checked):
        listed = ", ".join(f'"http://{address}:{port}"' for address in addresses(count))
        # One upstream without any stands in where there are to be none.
        listed = listed or f'"http://127.0.0.1:{port}"'
        health = f'health = {{ path = "/health", interval = "{EVERY_S}s" }}' if is_checked else ""
        self.log = os.path.join(folder, "log")
        path = os.path.join(folder, "config.toml")
        with open(path, "w") as file:
            file.write(f"""[server]
host = "127.0.0.1"
port = 0
workers = 2
[admin]
enabled = true
address = "127.0.0.1:0"
[pool]
prewarm = 0
[log]
level = "info"
[[upstream]]
name = "many"
origins = [{listed}]
{health}
""")
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([program, "--config", path], stdout=log, stderr=log)
        self.admin = self.address_in("admin API")
        self.service = self.address_in("listening")

    def address_in(self, words):
        for _ in range(600):
            with open(self.log) as log:
                for line in log:
                    plain = re.sub(r"\x1b\[[0-9;]*m", "", line)
                    found = re.search(r"(127\.0\.0\.1:\d+)", plain)
                    if words in plain and found:
                        return found.group(1)
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        with open(self.log) as log:
            raise SystemExit(f"ringway has not said {words!r}:\n{log.read()}")

    def get(self, path):
        with urllib.request.urlopen(f"http://{self.admin}{path}", timeout=30) as answer:
            return json.load(answer)

    def cpu_s(self):
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / HERTZ

    def rss(self):
        with open(f"/proc/{self.process.pid}/status") as file:
            return int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1)) * 1024

    def checked(self):
        targets = [it for one in self.get("/upstreams")["upstreams"] for it in one["targets"]]
        return sum(it["check"] == "good" for it in targets)

    def ask(self, times):
        """So many requests on one connection; round robin takes them to as many origins."""
        host, port = self.service.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=30) as client:
            stream = client.makefile("rwb")
            for _ in range(times):
                stream.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                stream.flush()
                while stream.readline() != b"\r\n":
                    pass
                stream.read(2)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)


def wait_until(is_so, limit=60):
    end = time.monotonic() + limit
    while not is_so():
        if time.monotonic() > end:
            raise SystemExit("it has not come to that within a minute")
        time.sleep(0.2)


def cpu_of(options, folder, origins, is_checked):
    ringway = Ringway(options.ringway, folder, origins.port, options.origins, is_checked)
    try:
        if is_checked:
            wait_until(lambda: ringway.checked() == options.origins)
        time.sleep(EVERY_S)
        before, served, began = ringway.cpu_s(), origins.served, time.monotonic()
        time.sleep(options.seconds)
        seconds = time.monotonic() - began
        share = (ringway.cpu_s() - before) / seconds
        return {"share": share, "checks_per_second": (origins.served - served) / seconds}
    finally:
        ringway.stop()


def memory_of(options, folder, origins, count):
    ringway = Ringway(options.ringway, folder, origins.port, count, count > 0)
    try:
        if count:
            wait_until(lambda: ringway.checked() == count)
        ringway.ask(2 * max(count, 100))
        wait_until(lambda: ringway.get("/health")["status"] == "ok")
        urllib.request.urlopen(
            urllib.request.Request(f"http://{ringway.admin}/admin/cleanup?level=light", method="POST"),
            timeout=30,
        ).read()
        time.sleep(2 * EVERY_S)
        return {"rss": ringway.rss(), "ledger": ringway.get("/snapshot")["memory"]["ledger_bytes"]}
    finally:
        ringway.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ringway", required=True, help="a release build of ringway")
    parser.add_argument("--origins", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    many = 2 * options.origins
    origins = Origins(many)
    with tempfile.TemporaryDirectory() as folder:
        still, checked = (cpu_of(options, folder, origins, it) for it in (False, True))
        memory = {n: memory_of(options, folder, origins, n) for n in (0, options.origins, many)}
    cost = checked["share"] - still["share"]
    each = {it: (memory[many][it] - memory[0][it]) / many for it in ("rss", "ledger")}
    if options.json:
        print(json.dumps({"still": still, "checked": checked, "cost": cost, "memory": memory,
                          "each": each}))
        return
    print(f"{options.origins} origins, 2 workers, {options.seconds} s")
    for name, it in (("no checks", still), (f"checks every {EVERY_S} s", checked)):
        print(f"  {name:<18} {100 * it['share']:6.2f} % of a core, "
              f"{it['checks_per_second']:.0f} checks a second")
    print(f"  the checks         {100 * cost:6.2f} % of a core")
    for count, it in memory.items():
        print(f"  {count:>5} origins  {it['rss'] / 1024:9.0f} KiB resident, "
              f"{it['ledger'] / 1024:8.0f} KiB in the ledger")
    print(f"  each origin  {each['rss']:9.0f} B resident, {each['ledger']:8.0f} B in the ledger")


if __name__ == "__main__":
    main()
