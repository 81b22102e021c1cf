"""The command `python -m benchmarks`."""

from importlib.metadata import PackageNotFoundError
from typing import Never

import pytest

from benchmarks import __main__ as command
from benchmarks import options, report


def test_a_missing_package_is_reported_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def version(package: str) -> str:
        if package == "skorch":
            raise PackageNotFoundError(package)
        return "1.0"

    def measure(*_: object) -> Never:
        raise AssertionError("measured")

    monkeypatch.setattr(report, "version", version)
    monkeypatch.setattr(options, "measure", measure)
    monkeypatch.setattr(command, "limit_spinning", lambda: None)
    monkeypatch.setattr("twinloop.cli.memory.keep_freed_memory", lambda: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("sys.argv", ["benchmarks", "options", "--data", "digits"])
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert stopped.value.code == 2
    message = "error: skorch is missing; make bench PARTS=options installs it\n"
    assert capsys.readouterr().err == message
