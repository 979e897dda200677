"""The clients of the soak that check what they get: each one a coroutine that does its thing once.

In go the ports of the proxy and of the origins; a client returns if everything was as it has to be,
and raises with a line that says what was not. None of them decides whether that was to be expected.
"""
import asyncio, base64, hashlib, os, random, ssl

LONG = 4 << 20
ANSWER_TIME = 60


class Wrong(Exception):
    pass


def check(holds, text):
    if not holds:
        raise Wrong(text)


class Clients:
    def __init__(self, plain, tls, echo, long_digest):
        self.plain, self.tls, self.echo, self.long_digest = plain, tls, echo, long_digest
        self.context = ssl.create_default_context()
        self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE
        self.kinds = {
            "upload": self.upload, "tls": self.over_tls, "tunnel": self.tunnel,
            "websocket": self.websocket, "slow_head": self.slow_head,
            "slow_reader": self.slow_reader, "mute": self.mute, "abort": self.abort,
        }

    async def open(self, is_tls=False):
        port, context = (self.tls, self.context) if is_tls else (self.plain, None)
        return await asyncio.open_connection("127.0.0.1", port, ssl=context, limit=1 << 17)

    async def head(self, reader):
        line = await reader.readline()
        check(line.startswith(b"HTTP/1.1 "), f"an answer that begins {line[:40]!r}")
        fields = {}
        while field := (await reader.readline()).strip():
            name, value = field.split(b":", 1)
            fields[name.lower()] = value.strip()
        return int(line.split()[1]), fields

    async def answer(self, reader, expected=200):
        status, fields = await self.head(reader)
        check(status == expected, f"status {status}")
        return await reader.readexactly(int(fields.get(b"content-length", b"0")))

    async def upload(self):
        """Bodies with their length and in chunks, each of which the origin has to see whole."""
        reader, writer = await self.open(random.random() < 0.5)
        try:
            for _ in range(random.randrange(1, 6)):
                body = random.randbytes(random.choice([1, 1000, 65536, 300_000, 2_000_000]))
                digest = f"{len(body)} {hashlib.sha256(body).hexdigest()}".encode()
                head = b"POST /c/upload HTTP/1.1\r\nHost: soak.example\r\n"
                if random.random() < 0.5:
                    writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
                else:
                    writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n")
                    for at in range(0, len(body), 50_000):
                        part = body[at:at + 50_000]
                        writer.write(b"%x\r\n%b\r\n" % (len(part), part))
                        await writer.drain()
                    writer.write(b"0\r\n\r\n")
                status, fields = await self.head(reader)
                check(status == 200, f"status {status}")
                found = await reader.readexactly(int(fields[b"content-length"]))
                check(found == digest, "the origin has seen another body")
                if fields.get(b"connection") == b"close":
                    return
                await asyncio.sleep(random.random())
        finally:
            writer.close()

    async def over_tls(self):
        reader, writer = await self.open(is_tls=True)
        try:
            writer.write(b"GET /long HTTP/1.1\r\nHost: soak.example\r\n\r\n")
            body = await self.answer(reader)
            check(hashlib.sha256(body).digest() == self.long_digest, "another body")
        finally:
            writer.close()

    async def tunnel(self):
        reader, writer = await self.open()
        try:
            writer.write(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n"
                         % (self.echo, self.echo))
            status, _ = await self.head(reader)
            check(status == 200, f"status {status}")
            for _ in range(random.randrange(1, 20)):
                block = random.randbytes(random.choice([1, 100, 20_000]))
                writer.write(block)
                check(await reader.readexactly(len(block)) == block, "other bytes")
                await asyncio.sleep(random.random())
        finally:
            writer.close()

    async def websocket(self):
        reader, writer = await self.open(random.random() < 0.5)
        try:
            key = base64.b64encode(os.urandom(16))
            writer.write(b"GET /c/ws HTTP/1.1\r\nHost: soak.example\r\nUpgrade: websocket\r\n"
                         b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                         b"Sec-WebSocket-Key: " + key + b"\r\n\r\n")
            status, _ = await self.head(reader)
            check(status == 101, f"status {status}")
            for _ in range(random.randrange(1, 20)):
                text = random.randbytes(random.choice([1, 100, 5000]))
                size = bytes([0x80 | len(text)]) if len(text) < 126 else (
                    b"\xfe" + len(text).to_bytes(2, "big"))
                # A mask of nothing is a mask.
                writer.write(b"\x82" + size + b"\0\0\0\0" + text)
                found = await reader.readexactly(1 + (1 if len(text) < 126 else 3) + len(text))
                check(found.endswith(text), "other bytes")
                await asyncio.sleep(random.random())
            writer.write(b"\x88\x80\0\0\0\0")
            await reader.readexactly(2)
        finally:
            writer.close()

    async def slow_head(self):
        reader, writer = await self.open()
        try:
            for byte in b"GET / HTTP/1.1\r\nHost: a\r\n\r\n":
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.1)
            await self.answer(reader)
        finally:
            writer.close()

    async def slow_reader(self):
        reader, writer = await self.open(random.random() < 0.5)
        try:
            writer.write(b"GET /long HTTP/1.1\r\nHost: soak.example\r\n\r\n")
            status, _ = await self.head(reader)
            check(status == 200, f"status {status}")
            digest, left = hashlib.sha256(), LONG
            while left:
                part = await reader.read(min(left, 65536))
                check(part, f"cut short, {left} bytes before its end")
                digest.update(part)
                left -= len(part)
                await asyncio.sleep(0.05)
            check(digest.digest() == self.long_digest, "another body")
        finally:
            writer.close()

    async def mute(self):
        """Is told to go, or just left: it must not stay."""
        reader, writer = await self.open(random.random() < 0.5)
        try:
            while await reader.read(65536):
                pass
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def abort(self):
        """Goes away in the middle of an answer."""
        reader, writer = await self.open()
        writer.write(b"GET /long HTTP/1.1\r\nHost: soak.example\r\n\r\n")
        await reader.readexactly(random.randrange(1, 100_000))
        writer.transport.abort()
