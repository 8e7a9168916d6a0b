"""Show what is published on a local web page: lists, watches, similar videos, nights, gates and reports.

watchnext serve JOB.toml [--port 8000] [--host 127.0.0.1] [--from redis]

The page is for people who judge lists. It only reads, has no login, and is not a production server. A night that is
published meanwhile is shown at the next request.
"""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress

from pipelines.base import command_lines, console
from pipelines.config.beam_options import pipeline_options
from pipelines.config.jobs import load_job
from pipelines.night.errors import StageError, run_command

_REQUEST_BYTES = 64 * 1024  # of the first line and the headers
_MOST_REQUESTS = 100  # at the same time; more are refused


parser = command_lines.serve


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the page until it is interrupted. Return one of the exit codes of `errors.EXIT_CODES`."""
    given = parser()
    args, flags = given.parse_known_args(argv)  # unknown arguments configure Beam's file systems
    if not 0 <= args.port <= 65_535:
        given.error(f"--port must be from 0 to 65535, but is {args.port}")

    def work() -> int:
        pipeline_options(None, flags)
        return _serve(args.job, args.source, args.host, args.port)

    return run_command(work)


def _serve(job_path: str, source: str, host: str, port: int) -> int:
    try:
        import uvicorn

        from pipelines.page.app import LOOPBACK_NAMES, create_app
    except ImportError as error:
        raise StageError(f"watchnext serve needs the package {error.name}: pip install 'watchnext[serve]'") from error
    job = load_job(job_path)
    listening = listen(host, port)
    is_local = is_loopback(listening.getsockname()[0])
    app = create_app(job, source, host_names=LOOPBACK_NAMES | {_in_url(host)} if is_local else None)
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=_MOST_REQUESTS,
        h11_max_incomplete_event_size=_REQUEST_BYTES,
    )
    if not is_local:
        warning = f"--host {host} lets others read users, watches and lists: the page has no login and no encryption"
        print(console.printable(f"watchnext: warning: {warning}"), file=sys.stderr)
    address = f"http://{_in_url(host)}:{listening.getsockname()[1]}/"
    print(f"watchnext: {address} shows what is published; Ctrl-C ends it", file=sys.stderr, flush=True)
    with listening, suppress(KeyboardInterrupt):  # raised again by uvicorn after it has ended the server
        uvicorn.Server(config).run(sockets=[listening])
    return 0


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address. Raises StageError if that is not possible."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen()
        except OSError:
            listening.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StageError(
            f"cannot listen on --host {host} --port {port} ({reason}): use another --port, 0 for any free one, or an "
            "address of this machine as --host"
        ) from error
    return listening


def is_loopback(address: str) -> bool:
    """Return whether only this machine can reach an IP address."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host.lower()


if __name__ == "__main__":
    raise SystemExit(main())
