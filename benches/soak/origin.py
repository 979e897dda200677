#!/usr/bin/env python3
"""The origin of the soak that does what nginx does not: takes uploads, speaks WebSocket, echoes.

    benches/soak/origin.py HTTP_PORT ECHO_PORT

In go requests: what is uploaded is answered by its length and its SHA-256, what comes by WebSocket
comes back in the same frames, and so does every byte of the second port. It keeps nothing.
"""
import asyncio, base64, hashlib, sys

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


async def body(reader, fields):
    digest, count = hashlib.sha256(), 0

    def take(part):
        nonlocal count
        digest.update(part)
        count += len(part)

    if fields.get(b"transfer-encoding") == b"chunked":
        while size := int((await reader.readline()).split(b";")[0], 16):
            take(await reader.readexactly(size))
            await reader.readexactly(2)
        while (await reader.readline()).strip():
            pass
    left = int(fields.get(b"content-length", b"0"))
    while left:
        part = await reader.read(min(left, 65536))
        if not part:
            raise asyncio.IncompleteReadError(part, left)
        take(part)
        left -= len(part)
    return f"{count} {digest.hexdigest()}".encode()


async def echo(reader, writer):
    try:
        while part := await reader.read(65536):
            writer.write(part)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def websocket(reader, writer, key):
    accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                 b"Connection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n")
    while True:
        head = await reader.readexactly(2)
        length = head[1] & 0x7f
        if length == 126:
            length = int.from_bytes(await reader.readexactly(2), "big")
        mask = await reader.readexactly(4)
        payload = await reader.readexactly(length)
        plain = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
        size = bytes([length]) if length < 126 else b"\x7e" + length.to_bytes(2, "big")
        writer.write(head[:1] + size + plain)
        await writer.drain()
        if head[0] & 0xf == 8:
            return


async def serve(reader, writer):
    try:
        while line := await reader.readline():
            fields = {}
            while field := (await reader.readline()).strip():
                name, value = field.split(b":", 1)
                fields[name.lower()] = value.strip()
            if fields.get(b"upgrade", b"").lower() == b"websocket":
                return await websocket(reader, writer, fields[b"sec-websocket-key"])
            answer = await body(reader, fields)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))
            await writer.drain()
    except (OSError, asyncio.IncompleteReadError, ValueError):
        pass
    finally:
        writer.close()


async def main():
    await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    await asyncio.start_server(echo, "127.0.0.1", int(sys.argv[2]))
    await asyncio.Event().wait()


asyncio.run(main())
