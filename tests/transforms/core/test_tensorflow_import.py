"""The import of TensorFlow is silent unless it fails, and parsing does not import TensorFlow."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
from nights import REPOSITORY

from transforms.core.tensorflow_import import collector_paused, standard_error_held_back


def test_standard_error_is_held_back_within_the_block(capfd: pytest.CaptureFixture[str]) -> None:
    os.write(2, b"before ")
    with standard_error_held_back():
        os.write(2, b"inside ")
        print("too", file=sys.__stderr__)
    os.write(2, b"after")
    assert capfd.readouterr().err == "before after"


def test_standard_error_is_shown_if_the_block_fails(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ImportError, match="no such library"), standard_error_held_back():
        os.write(2, b"the reason\n")
        raise ImportError("no such library")
    os.write(2, b"after")
    assert capfd.readouterr().err == "the reason\nafter"


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)


def test_tensorflow_import_is_silent_and_thread_safe_and_hides_matplotlib_only_meanwhile() -> None:
    done = run(
        "import sys\n"
        "from concurrent.futures import ThreadPoolExecutor as Pool\n"
        "from transforms.core.tensorflow_import import import_tensorflow\n"
        "print(*Pool(4).map(lambda n: import_tensorflow().constant(n).numpy(), range(4)))\n"
        "import_tensorflow().keras\n"
        "print('matplotlib' in sys.modules)\n"
        "import matplotlib.cbook\n"
        "print(matplotlib.cbook.__name__)"
    )
    assert (done.stdout, done.stderr) == ("0 1 2 3\nFalse\nmatplotlib.cbook\n", "")


@pytest.mark.parametrize("enabled", [True, False])
def test_collector_is_paused_in_the_block_and_restored_afterwards(enabled: bool) -> None:
    was = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        frozen = gc.get_freeze_count()
        with pytest.raises(ImportError), collector_paused():
            assert not gc.isenabled()
            kept = [[n] for n in range(100)]
            raise ImportError
        assert gc.isenabled() is enabled
        assert gc.get_freeze_count() >= frozen + len(kept)
    finally:
        (gc.enable if was else gc.disable)()


def test_stages_start_with_the_collector_enabled() -> None:
    as_module = "import gc, sys; sys.orig_argv[1:] = ['-m', 'pipelines.ingest']"  # as `python -m pipelines.ingest`
    done = run(f"{as_module}; import pipelines.ingest; print(gc.isenabled(), gc.get_freeze_count() > 1000)")
    assert done.stdout == "True True\n"


def test_commands_import_beam_with_the_collector_paused_once() -> None:
    frozen = "print('apache_beam' in sys.modules, gc.isenabled(), gc.get_freeze_count())"
    done = run(
        f"import gc, sys, pipelines; {frozen}; pipelines.import_beam(); {frozen}; pipelines.import_beam(); {frozen}"
    )
    before, first, second = (line.split() for line in done.stdout.splitlines())
    assert before == ["False", "True", "0"] and first[:2] == ["True", "True"] and int(first[2]) > 1000
    assert second == first


def test_tensorflow_is_imported_only_for_the_attribute_tf() -> None:
    done = run(
        "import sys\n"
        "from transforms.core import files, frames, records, tensorflow_import\n"
        "from transforms.examples import draw_examples, tokens, vocabulary, write_examples\n"
        "from transforms.logs import event_window, ingest, parsing, readers\n"
        "print(hasattr(tensorflow_import, 'other'), 'tensorflow' in sys.modules)\n"
        "from transforms.core.tensorflow_import import tf\n"
        "print(tf is sys.modules['tensorflow'])"
    )
    assert done.stdout == "False False\nTrue\n"


RACE = """
import sys, threading
from transforms.core.tensorflow_import import import_tensorflow
from transforms.search.scann_index import _import_scann
found = []
thread = threading.Thread(target=lambda: found.append(import_tensorflow()))
sys.modules["scann_test"] = thread
_import_scann()
thread.join()
print(found[0].__name__, "tensorflow" in sys.modules)
"""


def test_thread_that_imports_tensorflow_while_scann_is_imported_gets_the_real_package(tmp_path: Path) -> None:
    """ScaNN is imported as if TensorFlow were not installed. Here both packages are fakes, and ScaNN's import starts
    the other thread and waits a second for it."""
    fakes = {
        "tensorflow": "import logging\nget_logger = logging.getLogger",
        "scann": "import sys\nthread = sys.modules['scann_test']\nthread.start()\nthread.join(1)\nscann_ops_pybind = 1",
    }
    for name, code in fakes.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"}
    done = subprocess.run([sys.executable, "-c", RACE], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "tensorflow True\n"
