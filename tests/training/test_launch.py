"""A script under ``hfplug run`` is run as Python runs it."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from plug_samples import environment, launch, python


def script(folder: Path, code: str) -> Path:
    path = folder / "theirs.py"
    path.write_text(textwrap.dedent(code), encoding="utf-8")
    return path


def both(folder: Path, code: str, *words: str, cwd: Path | None = None):
    """The same script by Python and by ``hfplug run``."""
    path = script(folder, code)
    return (
        python(path, *words, code=None, cwd=cwd),
        launch("run", "--method", "lora", path, *words, code=None, cwd=cwd),
    )


def test_it_sees_the_same_arguments_names_and_path(tmp_path):
    code = """
        import os, sys
        print(sys.argv, __name__, __file__, __doc__, __package__, __spec__, sys.path[0], os.getcwd())
        print(sorted(name for name in globals() if name != "__warningregistry__"))
        import __main__
        assert __main__.__file__ == __file__
        class Here: pass
        print(Here.__module__, sys.modules[Here.__module__].Here is Here)
        """
    (tmp_path / "elsewhere").mkdir()
    words = ("--debug", "--method", "x", "--", "-h", "a b")
    plain, ours = both(tmp_path, code, *words, cwd=tmp_path / "elsewhere")
    assert plain.returncode == ours.returncode == 0
    assert ours.stdout == plain.stdout


def test_nothing_heavy_is_imported_before_the_script(tmp_path):
    code = """
        import os, sys
        print({"torch", "transformers", "huggingface_hub", "numpy", "peft", "datasets"} & set(sys.modules))
        os.environ["HF_HOME"] = os.path.join(os.path.dirname(os.path.abspath(__file__)), "home")
        from huggingface_hub import constants
        print(constants.HF_HOME.endswith("home"))
        """
    done = launch("run", "--method", "qlora", script(tmp_path, code))
    assert done.stdout.splitlines() == ["set()", "True"]


@pytest.mark.parametrize("leave", ["sys.exit(7)", "sys.exit()", "sys.exit('no good')", "raise SystemExit(3)"])
def test_it_leaves_with_its_own_status(tmp_path, leave):
    plain, ours = both(tmp_path, f"import sys\n{leave}\n")
    assert (ours.returncode, ours.stderr) == (plain.returncode, plain.stderr)


@pytest.mark.parametrize("fails", ["int('x')", "open('absent')", "def ??", "raise KeyError('a')", "import absent"])
def test_a_stack_trace_is_pythons(tmp_path, fails):
    code = f"import sys\ndef inner():\n    {fails}\ninner()\n"
    plain, ours = both(tmp_path, code)
    assert (ours.returncode, ours.stderr) == (plain.returncode, plain.stderr)
    assert "hfplug" not in ours.stderr


def test_a_hook_of_its_own_for_exceptions_is_called(tmp_path):
    plain, ours = both(tmp_path, "import sys\nsys.excepthook = lambda *a: print('mine', a[0].__name__)\n1 / 0\n")
    assert ours.stdout == plain.stdout == "mine ZeroDivisionError\n"


def test_an_interrupt_ends_it_by_the_signal_after_its_own_clean_up(tmp_path):
    path = script(
        tmp_path,
        """
        import atexit, time
        atexit.register(lambda: print("cleaned", flush=True))
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally:
            print("finally", flush=True)
        """,
    )
    results = []
    for words in ([path], ["-m", "hfplug", "run", "--method", "lora", path]):
        process = subprocess.Popen(
            [sys.executable, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        results.append((process.returncode, out, err.splitlines()[-1], "hfplug" in err))
    assert results[0] == results[1] == (-signal.SIGINT, "finally\ncleaned\n", "KeyboardInterrupt", False)


def test_its_processes_find_what_it_defines(tmp_path):
    code = """
        import multiprocessing
        def double(number):
            return 2 * number
        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.map(double, [1, 2]))
        """
    assert launch("run", script(tmp_path, code)).stdout == "[2, 4]\n"


def test_what_is_typed_wrong_is_answered_on_one_line(tmp_path):
    good = script(tmp_path, "print('ran')")
    for words, expected in (
        (["--method", "lorra", good], "Did you mean 'lora'?"),
        (["--method", "prompt_tuning", "--lora_r", "4", good], "--lora_r is a flag of lora"),
        (["--method", "lora"], "hfplug run needs a script"),
        (["--methid", "lora", good], "Did you mean '--method'?"),
        (["--method", "lora", tmp_path / "absent.py"], "There is no script"),
    ):
        done = launch("run", *words, code=2)
        assert expected in done.stderr and done.stderr.count("\n") == 1 and done.stdout == "", done.stderr


def test_the_script_may_follow_two_dashes(tmp_path):
    path = script(tmp_path, "import sys; print(sys.argv[1:])")
    assert launch("run", "--lora-r", "8", "--", path, "--lora_r", "--debug").stdout == "['--lora_r', '--debug']\n"
