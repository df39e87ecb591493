"""Containers that shall train as one try each other first: who is reached, who is not and why."""

import asyncio
import socket

import pytest
from moai_agent import peers
from moai_agent.errors import AgentError

NONCE = b"n" * 32


def offered(port):
    return [peers.Address("lo", "127.0.0.1")], port


async def offer_and_reach(nonce, asked):
    offer = peers.Offer(nonce)
    await offer.open(30.0)
    try:
        return await peers.reach([peers.Address("lo", "127.0.0.1")], offer.port, asked), offer.port
    finally:
        offer.close()


def test_an_offered_port_is_reached_and_the_way_to_it_named():
    (attempt,), _ = asyncio.run(offer_and_reach(NONCE, NONCE))
    assert attempt == peers.Attempt("127.0.0.1", True, "", peers.Address("lo", "127.0.0.1"))


def test_somebody_else_on_the_port_is_not_taken_for_the_peer():
    (attempt,), _ = asyncio.run(offer_and_reach(NONCE, b"m" * 32))
    assert not attempt.is_reached and attempt.text == "somebody else answers there"


def test_a_closed_port_is_told_as_such_and_the_port_is_free_for_the_training_afterwards():
    _, port = asyncio.run(offer_and_reach(NONCE, NONCE))
    (attempt,) = asyncio.run(peers.reach([peers.Address("lo", "127.0.0.1")], port, NONCE))
    assert not attempt.is_reached and "refused" in attempt.text
    with socket.socket() as taker:
        taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taker.bind(("0.0.0.0", port))


def test_no_answer_is_bounded(monkeypatch):
    monkeypatch.setattr(peers, "_REACH_S", 0.05)

    async def silent():
        async def hold(reader, writer):
            await reader.read()
            writer.close()

        server = await asyncio.start_server(hold, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            return await peers.reach([peers.Address("lo", "127.0.0.1")], port, NONCE)
        finally:
            server.close()

    (attempt,) = asyncio.run(silent())
    assert not attempt.is_reached and "no answer in 0.05 s" in attempt.text


def test_addresses_are_those_of_the_interfaces_and_loopback_is_last():
    found = peers.addresses()
    assert peers.Address("lo", "127.0.0.1") in found
    assert [one.address.startswith("127.") for one in found] == sorted(one.address.startswith("127.") for one in found)


@pytest.mark.parametrize("nonce", [b"", b"short", b"x" * 65])
def test_a_nonce_that_proves_nothing_is_refused(nonce):
    with pytest.raises(AgentError, match="nonce") as caught:
        peers.Offer(nonce)
    assert caught.value.reason == "USAGE"
