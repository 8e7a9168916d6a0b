"""Beam's worker pool on loopback: start a Python worker process for each request of a TaskManager.

Beam's own `worker_pool_main` differs in three ways: it listens on all interfaces, so that outside of a container anyone
on the network can start workers; SIGTERM ends it but not its workers; and it does not restart a worker that dies before
it has connected, for which the TaskManager then waits for ever.
"""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

import grpc
from apache_beam.portability.api import beam_fn_api_pb2_grpc
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer, kill_process_gracefully
from apache_beam.utils import thread_pool_executor

STARTS = 3  # per worker; if a worker had connected, the TaskManager itself requests another one


class WorkerPool(BeamFnExternalWorkerPoolServicer):
    """A worker pool that restarts workers that end before they are stopped."""

    def __init__(self) -> None:
        super().__init__(use_process=True)

    def StartWorker(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        answer = super().StartWorker(request, context)
        if not answer.error:
            threading.Thread(target=self._restart_if_ended, args=(request, context), daemon=True).start()
        return answer

    def _restart_if_ended(self, request: Any, context: Any) -> None:
        for start in range(STARTS):
            process = self._worker_processes.get(request.worker_id)
            if process is None:
                return
            process.wait()
            stopped = self._worker_processes.get(request.worker_id) is not process
            if stopped or start + 1 == STARTS:
                return
            super().StartWorker(request, context)

    def stop(self) -> None:
        """Stop all workers."""
        processes = list(self._worker_processes.values())
        self._worker_processes.clear()
        for process in processes:
            kill_process_gracefully(process)


def main(port: int) -> None:
    """Serve on localhost:PORT until SIGTERM or SIGINT; the workers end with the pool."""
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    pool, server = WorkerPool(), grpc.server(thread_pool_executor.shared_unbounded_instance())
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    server.add_insecure_port(f"localhost:{port}")
    server.start()
    stopped.wait()
    server.stop(0)
    pool.stop()


if __name__ == "__main__":
    main(int(sys.argv[1]))
