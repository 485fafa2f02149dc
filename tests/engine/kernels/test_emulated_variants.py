"""The Arm variants under emulation compute what the portable one computes on this machine.

`.ci/emulate` runs this: it compiles the kernels four times, which takes minutes.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qcode.engine.kernels import build

CROSS_COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
LEAST_CPU = {"portable": "cortex-a53", "neon": "cortex-a76", "neon_i8mm": "max"}
"""For each variant an emulated CPU that has what it needs and not what the next one needs."""

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("QCODE_EMULATE"), reason="takes minutes and is run by .ci/emulate"
    ),
    pytest.mark.timeout(1200),
]


def compile_check(compiler: str, flags: tuple[str, ...], target: Path) -> Path:
    digest = f'-DQCODE_SOURCE_DIGEST="{build.source_digest()}"'
    sources = sorted(build.SOURCE_DIRECTORY.glob("*.cpp"))
    check = Path(__file__).with_name("variant_check.cpp")
    command = [compiler, *build.FLAGS, *flags, digest, *map(str, sources), str(check)]
    subprocess.run([*command, "-o", str(target)], check=True)
    return target


def cases(*command: str) -> Iterator[tuple[str, list[float]]]:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines()[1:]:
        name, *numbers = line.split()
        yield name, [float(number) for number in numbers]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, list[float]]]:
    """What this machine's portable variant computes."""
    target = tmp_path_factory.mktemp("host") / "check"
    return list(cases(str(compile_check(build.find_compiler(), (), target))))


@pytest.mark.parametrize("variant", list(build.variants("aarch64")))
def test_an_arm_variant_computes_the_same_and_is_chosen_for_its_cpu(
    variant: str, expected: list[tuple[str, list[float]]], tmp_path: Path
) -> None:
    flags = build.variants("aarch64")[variant]
    check = compile_check(CROSS_COMPILER, (*flags, "-static"), tmp_path / "check")
    command = (EMULATOR, "-cpu", LEAST_CPU[variant], str(check))
    chosen = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert chosen.splitlines()[0] == f"variant {variant}"
    actual = list(cases(*command))
    assert [name for name, _ in actual] == [name for name, _ in expected]
    for (name, numbers), (_, wanted) in zip(actual, expected, strict=True):
        # Products and sums may be rounded together or apart; 16-bit scores may round either way.
        tolerance = (1e-4 if name.startswith("attention/3/") else 2e-6) * max(map(abs, wanted))
        assert numbers == pytest.approx(wanted, rel=0, abs=tolerance), name
