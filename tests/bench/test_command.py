from __future__ import annotations

import pytest

from bench.__main__ import BENCHMARKS, main


def test_help_names_every_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_code:
        main(["--help"])
    assert exit_code.value.code == 0
    words = capsys.readouterr().out.replace(",", " ").split()
    assert set(BENCHMARKS) - set(words) == set()


def test_list_explains_every_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert [name for name in BENCHMARKS if f"{name}: " not in printed] == []


def test_unknown_benchmark_is_refused_with_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_code:
        main(["http-mises"])
    assert exit_code.value.code == 2
    assert "http-misses" in capsys.readouterr().err
