"""How a worker that has submitted tasks itself ends."""

from __future__ import annotations

from distpool import DistExecutor
from distpool.driver.current import close_current, existing_session


def submit_and_end() -> list[list[bytes]]:
    with DistExecutor(1) as executor:
        executor.submit(abs, -1).result()
    session = existing_session()
    assert session is not None
    channel, waits_for = session.channel, []
    close = channel.close

    def closing(linger_s: float = 0.0) -> None:
        waits_for.append(sorted(channel._endpoints))
        close(linger_s)

    channel.close = closing  # type: ignore[method-assign]
    close_current()
    return waits_for


def test_it_does_not_wait_for_words_to_workers_that_are_gone() -> None:
    """They can never be delivered: its own end, and with it that of the program, took a second longer."""
    with DistExecutor(1) as executor:
        assert executor.submit(submit_and_end).result() == [[b"s"]]
