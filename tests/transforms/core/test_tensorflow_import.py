"""What is written while TensorFlow is imported stays off the screen, unless it fails; parsing never imports it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
from nights import REPOSITORY

from transforms.core.tensorflow_import import collector_paused, standard_error_held_back


def test_what_is_written_inside_is_held_back(capfd: pytest.CaptureFixture[str]) -> None:
    os.write(2, b"before ")
    with standard_error_held_back():
        os.write(2, b"inside ")
        print("too", file=sys.__stderr__)
    os.write(2, b"after")
    assert capfd.readouterr().err == "before after"


def test_it_is_shown_where_the_block_fails(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ImportError, match="no such library"), standard_error_held_back():
        os.write(2, b"the reason\n")
        raise ImportError("no such library")
    os.write(2, b"after")
    assert capfd.readouterr().err == "the reason\nafter"


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)


def test_tensorflow_comes_without_a_word_and_whole_to_threads_that_ask_at_once() -> None:
    done = run(
        "from concurrent.futures import ThreadPoolExecutor as Pool\n"
        "from transforms.core.tensorflow_import import import_tensorflow\n"
        "print(*Pool(4).map(lambda n: import_tensorflow().constant(n).numpy(), range(4)))"
    )
    assert (done.stdout, done.stderr) == ("0 1 2 3\n", "")


def test_matplotlib_is_held_back_from_keras_alone() -> None:
    done = run(
        "import sys\n"
        "from transforms.core.tensorflow_import import import_tensorflow\n"
        "import_tensorflow().keras\n"
        "print('matplotlib' in sys.modules)\n"
        "import matplotlib.pyplot as plot\n"
        "print(plot.__name__)"
    )
    assert done.stdout == "False\nmatplotlib.pyplot\n"


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_rests_inside_and_is_then_as_before(enabled: bool) -> None:
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


def test_stages_begin_with_a_collector_at_work() -> None:
    assert (
        run("import gc, pipelines.ingest; print(gc.isenabled(), gc.get_freeze_count() > 1000)").stdout == "True True\n"
    )


def test_parsing_and_shuffling_do_not_load_tensorflow() -> None:
    modules = "core.records, core.files, core.frames, logs.ingest, logs.readers, logs.parsing, logs.event_window, "
    modules += "examples.draw_examples, examples.tokens, examples.vocabulary, examples.write_examples"
    imports = ", ".join(f"transforms.{name}" for name in modules.split(", "))
    done = run(f"import sys, {imports}; print('tensorflow' in sys.modules)")
    assert done.stdout == "False\n"


RACE = """
import sys, threading
from transforms.core.tensorflow_import import import_tensorflow
from transforms.search.scann_index import _scann
found = []
thread = threading.Thread(target=lambda: found.append(import_tensorflow()))
sys.modules["scann_test"] = thread
_scann()
thread.join()
print(found[0].__name__, "tensorflow" in sys.modules)
"""


def test_tensorflow_is_whole_for_a_thread_that_asks_while_scann_is_imported(tmp_path: Path) -> None:
    """ScaNN is imported as if there were no TensorFlow. Both packages are fakes here; ScaNN's import starts the thread
    and gives it a second."""
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
