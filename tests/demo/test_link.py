"""One way from node to node: its streams and its datagrams share a port, a shape and a fate."""

from __future__ import annotations

import asyncio
import contextlib

from crdtmem.demo.link import Link
from crdtmem.relay import LinkShape
from crdtmem.settings import parse_address
from tests.demo.test_datagram_relay import Target
from tests.waiting import eventually


def test_streams_and_datagrams_pass_at_one_port_only_once_it_leads_somewhere() -> None:
    async def play() -> None:
        loop = asyncio.get_running_loop()
        arrived: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            arrived.append(await reader.read())
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        listening, target = await loop.create_datagram_endpoint(
            Target, local_addr=("127.0.0.1", port)
        )
        link = Link(LinkShape(latency_ms=1), seed=3)
        await link.start()
        host, entry = parse_address(link.address)
        sending, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=(host, entry)
        )
        try:
            async with asyncio.timeout(20):
                # It leads nowhere yet: datagrams are lost, a connection waits.
                sending.sendto(b"too early")
                _, writer = await asyncio.open_connection(host, entry)
                writer.write(b"patient")
                writer.write_eof()
                await eventually(lambda: link.datagrams.totals.cut == 1, "the loss")
                assert arrived == []
                link.lead_to(port)
                await eventually(lambda: arrived == [b"patient"], "what waited")
                sending.sendto(b"in time")
                await eventually(lambda: target.received == [b"in time"], "the datagram")
                link.cut()
                assert link.streams.is_cut
                sending.sendto(b"lost")
                await eventually(lambda: link.datagrams.totals.cut == 2, "the second loss")
                link.heal()
                sending.sendto(b"healed")
                await eventually(lambda: target.received[1:] == [b"healed"], "the next")
                writer.close()
        finally:
            sending.abort()
            listening.abort()
            await link.close()
            server.close()
            with contextlib.suppress(ConnectionError):
                await server.wait_closed()
        assert link.datagrams.totals.carried == 2

    asyncio.run(play())
