"""A real Flink cluster on this machine: JobManager, TaskManager, Beam's job server and a pool of Python workers.

    python -m runner_configs.flink.cluster up       # starts the parts that do not run, and waits until all are ready
    watchnext nightly JOB.toml --runner-config flink --job_endpoint=localhost:8099
    python -m runner_configs.flink.cluster down     # stops what `up` started

`up --local` starts only a job server with an embedded Flink, for jobs whose workers run in the submitting program
(--environment_type=LOOPBACK). All files are in `.flink/`: jars from Maven and PyPI (400 MB), logs in `.flink/log`. This
module imports the standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from runner_configs.flink.processes import ClusterError, Process, Started

HERE = Path(__file__).parent
CONF = HERE / "conf"
FOLDER = HERE.parents[1] / ".flink"
FLINK_LIBRARIES = "apache-flink-libraries==1.16.3"  # the Flink that pom.xml's job server was built for
REST, JOB_MANAGER, WORKERS = 8081, 6123, 50000
JOB_SERVER = (8099, 8098, 8097)  # jobs, artifacts, expansion
LOCAL = (8199, 8198, 8197)
READY_SECONDS = 120.0

# Java 17 closes these packages by default, and Flink 1.16 accesses them by reflection.
_OPENED = ["java.lang", "java.util", "java.nio", "sun.nio.ch", "java.util.concurrent", "java.net", "sun.net.util"]
_OPENS = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED]
_FLINK = "org.apache.flink.runtime"
_JOBMANAGER = (f"{_FLINK}.entrypoint.StandaloneSessionClusterEntrypoint", "GET_JM_RESOURCE_PARAMS")
_TASKMANAGER = (f"{_FLINK}.taskexecutor.TaskManagerRunner", "GET_TM_RESOURCE_PARAMS")
_JAVA = ["java", *_OPENS, "--add-exports=java.base/sun.net.util=ALL-UNNAMED"]


def processes(started: Started) -> list[Process]:
    """Return the processes of the cluster, in the order in which they start."""
    folder = started.folder
    return [
        Process("jobmanager", partial(_flink, folder, *_JOBMANAGER), (REST, JOB_MANAGER), lambda: bool(_overview())),
        Process("taskmanager", partial(_flink, folder, *_TASKMANAGER), (), _has_slots),
        _job_server("jobserver", folder, f"localhost:{REST}", JOB_SERVER),
        Process("workers", _workers, (WORKERS,), partial(_answers, WORKERS), _worker_environment()),
    ]


def local(started: Started) -> list[Process]:
    """Return the process of `up --local`: a job server with an embedded Flink."""
    return [_job_server("local", started.folder, "[local]", LOCAL)]


def up(wanted: Sequence[Process], started: Started, *, seconds: float = READY_SECONDS) -> list[str]:
    """Start the processes that do not run, wait until all are ready, and return the names of those that were started.

    Raises ClusterError.
    """
    fetch(started.folder)
    names = [process.name for process in wanted if started.start(process)]
    until = time.monotonic() + seconds
    for process in wanted:
        started.wait(process, until)
    return names


def down(started: Started) -> list[str]:
    """Stop the processes that `up` started, and return the names of those that ran."""
    every = [*processes(started), *local(started)]
    return [process.name for process in reversed(every) if started.stop(process.name)]


def fetch(folder: Path) -> None:
    """Download the jars of Beam's job server and of Flink, unless they exist. Raises ClusterError."""
    _need("java", "openjdk-17-jre-headless")
    if not (folder / ".fetched").exists():
        _need("mvn", "maven")
        folder.mkdir(parents=True, exist_ok=True)
        print(f"fetching Flink and Beam's job server to {folder} (400 MB, minutes)", file=sys.stderr)
        pom = ["-f", str(HERE / "pom.xml"), "dependency:copy-dependencies", f"-DoutputDirectory={folder}/lib"]
        _run(["mvn", "-q", "-B", *pom])
        pip = ["--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade", "--target", f"{folder}/dist"]
        _run([*_pip(folder), "install", *pip, FLINK_LIBRARIES])
        (folder / ".fetched").touch()


def _pip(folder: Path) -> list[str]:
    """Return a command that runs pip. Environments created by uv have none, so a separate one is created for it."""
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode:
        _run([sys.executable, "-m", "venv", f"{folder}/pip"])
        return [f"{folder}/pip/bin/python", "-m", "pip"]
    return [sys.executable, "-m", "pip"]


def _need(program: str, package: str) -> None:
    if shutil.which(program) is None:
        raise ClusterError(f"{program} is not installed: on Debian and Ubuntu it is in the package {package}")


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def _flink(folder: Path, main: str, sizes: str) -> list[str]:
    """Return the command of a Flink process.

    Like Flink's own scripts, it asks a class of Flink for the JVM options that follow from the configured sizes.
    """
    jars = folder / "dist/pyflink"
    ask = ["java", "-cp", f"{jars}/bin/bash-java-utils.jar:{jars}/lib/*"]
    output = _run([*ask, f"{_FLINK}.util.bash.BashJavaUtils", sizes, "--configDir", str(CONF)])
    mark = "BASH_JAVA_UTILS_EXEC_RESULT:"
    flags, dynamic = ([*[line.partition(mark)[2] for line in output.splitlines() if mark in line], "", ""])[:2]
    log = f"-Dlog4j.configurationFile={CONF}/log4j.properties"
    java = [*_JAVA, *flags.split(), log, f"-Djava.io.tmpdir={_create(folder / 'tmp')}"]
    java += ["-cp", os.pathsep.join([f"{jars}/lib/*", *_beam_jars(folder)])]
    return [*java, main, "--configDir", str(CONF), *dynamic.split()]


def _beam_jars(folder: Path) -> list[str]:
    """Return Beam's jars without its copy of Flink.

    On the cluster's class path they are loaded and compiled once, while jars that come with a job cost it seconds.
    """
    own = ("flink-", "slf4j-", "scala-")
    return sorted(str(jar) for jar in (folder / "lib").glob("*.jar") if not jar.name.startswith(own))


def _job_server(name: str, folder: Path, master: str, ports: tuple[int, int, int]) -> Process:
    kinds = ("job", "artifact", "expansion")

    def command() -> list[str]:
        memory = ["-Xmx2g" if master == "[local]" else "-Xmx512m"]
        java = [*_JAVA, *memory, f"-Djava.io.tmpdir={_create(folder / 'tmp')}", "-cp", f"{folder}/lib/*"]
        main = [*java, "org.apache.beam.runners.flink.FlinkJobServerDriver", f"--flink-master={master}"]
        main += [f"--{kind}-port={port}" for kind, port in zip(kinds, ports, strict=True)]
        return [
            *main,
            "--job-host=localhost",
            f"--artifacts-dir={_create(folder / 'artifacts')}",
            f"--flink-conf-dir={CONF}",
        ]

    return Process(name, command, ports, partial(_answers, ports[0]))


def _workers() -> list[str]:
    return [sys.executable, "-m", "runner_configs.flink.worker_pool", str(WORKERS)]


def _worker_environment() -> dict[str, str]:
    """Return the environment of the worker pool.

    Each slot has a worker, which would otherwise start one thread per core in polars, OpenMP and TensorFlow.
    """
    threads = str(max(1, len(os.sched_getaffinity(0)) // _setting("taskmanager.numberOfTaskSlots")))
    names = ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    # The pool starts workers as `python`, and they must import the watchnext that this file belongs to.
    own = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(HERE.parents[1]),
    }
    return dict.fromkeys(names, threads) | own


def _setting(name: str) -> int:
    lines = (line.partition(": ") for line in (CONF / "flink-conf.yaml").read_text().splitlines())
    return next(int(value) for key, _, value in lines if key == name)


def _create(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _overview() -> dict[str, int] | None:
    try:
        with urllib.request.urlopen(f"http://localhost:{REST}/overview", timeout=5) as page:
            found: dict[str, int] = json.load(page)
            return found
    except (OSError, ValueError):
        return None


def _has_slots() -> bool:
    return ((_overview() or {}).get("slots-total") or 0) >= _setting("taskmanager.numberOfTaskSlots")


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("localhost", port), 5).close()
    except OSError:
        return False
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0 done; 1 the cluster is not in the wanted state."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("do", choices=("up", "down", "status"))
    parser.add_argument("--local", action="store_true", help="only a job server with an embedded Flink")
    args = parser.parse_args(argv)
    started = Started(FOLDER)
    wanted = local(started) if args.local else processes(started)
    if args.do == "down":
        print(f"stopped: {', '.join(down(started)) or 'nothing ran'}")
        return 0
    if args.do == "status":
        pids = {process.name: started.pid(process.name) for process in wanted}
        for name, pid in pids.items():
            print(f"{name:<12} {f'pid {pid}' if pid else 'does not run'}")
        return 0 if all(pids.values()) else 1
    try:
        names = up(wanted, started)
    except ClusterError as error:
        print(f"watchnext: {error}", file=sys.stderr)
        return 1
    endpoint = f"--job_endpoint=localhost:{(LOCAL if args.local else JOB_SERVER)[0]}"
    page = "" if args.local else f"; its page: http://localhost:{REST}"
    print(f"started: {', '.join(names) or 'nothing, all of it runs'}; jobs: --runner=FlinkRunner {endpoint}{page}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
