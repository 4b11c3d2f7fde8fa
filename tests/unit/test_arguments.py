"""How tools end."""

import subprocess
import sys
from pathlib import Path

import pytest

from swin.errors import DataError
from tools.arguments import command

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [(DataError("no images."), 2, "error: no images.\n"), (KeyboardInterrupt(), 130, "interrupted\n")],
)
def test_what_ends_a_tool_is_one_line(capsys, error, status, text):
    @command
    def main() -> int:
        raise error

    assert main() == status
    assert capsys.readouterr().err == text


def test_a_fault_of_the_program_is_raised():
    @command
    def main() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        main()


def test_a_reader_that_has_seen_enough_ends_a_tool_quietly():
    script = (
        "import sys\nfrom tools.arguments import command\n"
        "@command\ndef main():\n    for _ in range(100_000):\n        print('x' * 100)\n    return 0\n"
        "sys.exit(main())\n"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, **pipes) as process:
        assert process.stdout.readline() == "x" * 100 + "\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 0
