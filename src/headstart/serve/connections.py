"""Connections of clients that are slow, silent or too many: what uvicorn leaves open."""

import asyncio

from uvicorn.protocols.http.auto import AutoHTTPProtocol

# A server that runs out of file descriptors accepts nobody: systems give a process 1,024 of them, and some are files.
MOST_CONNECTIONS = 800
# The request line with all headers.
MOST_HEADER_BYTES, SECONDS_OF_HEADER = 64 << 10, 10.0
# A client that does not read its answer.
SECONDS_OF_ANSWER = 30.0
# How long a connection without a request stays open when the server ends.
SECONDS_AT_END = 1.0


class PatientProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """One connection, with a limit on how long it may take to ask and to listen."""

    timer: asyncio.TimerHandle | None = None
    writing: asyncio.TimerHandle | None = None
    header_bytes = 0
    ending = False

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            self.reply("503 Service Unavailable", "too many connections are open: try again in a second", "retry-after: 1\r\n")
        else:
            self.wait_for_header()

    @property
    def asking(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    def wait_for_header(self) -> None:
        if self.timer is None:
            self.timer = self.loop.call_later(SECONDS_OF_HEADER, self.give_up)

    def give_up(self) -> None:
        if self.header_bytes:
            self.reply("408 Request Timeout", f"the request's head took more than {SECONDS_OF_HEADER:.0f} seconds")
        else:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        if self.asking:
            self.wait_for_header()
            self.header_bytes += len(data)
        super().data_received(data)
        if self.cycle is not before:
            self.stop_waiting()
            if self.ending:
                self.cycle.keep_alive = False
        elif self.asking and self.header_bytes > MOST_HEADER_BYTES:
            self.reply("431 Request Header Fields Too Large", f"a request's head has at most {MOST_HEADER_BYTES:,} bytes")

    def stop_waiting(self) -> None:
        self.header_bytes = 0
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def reply(self, status: str, message: str, headers: str = "") -> None:
        """Answer without the application, and close the connection."""
        if not self.transport.is_closing():
            body = f'{{"error": "{message}"}}'
            head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{headers}"
            self.transport.write(f"{head}connection: close\r\n\r\n{body}".encode())
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop_waiting()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.writing = self.loop.call_later(SECONDS_OF_ANSWER, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.writing is not None:
            self.writing.cancel()
            self.writing = None

    def shutdown(self) -> None:
        """End after the request that is under way, or that comes within a moment: it may be on its way already."""
        self.ending = True
        if self.asking:
            self.stop_waiting()
            self.timer = self.loop.call_later(SECONDS_AT_END, self.transport.close)
        else:
            super().shutdown()
