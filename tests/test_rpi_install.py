"""install.sh of a bundle, with a script in Python's place: slots, what runs from them, what is said. rpi/test-bundle has the real thing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

RPI = Path(__file__).resolve().parent.parent / "rpi"
sys.path[:0] = [str(RPI)]

from workshop.serving import COMMANDS  # noqa: E402

# Makes a slot whose programs are this script again.
PYTHON = """\
#!/bin/sh
case "$*" in
    *platform.machine*) echo board 64bit ;;
    "-m venv "*) mkdir "$4/bin" && touch "$4/pyvenv.cfg" && ln -s "$0" "$4/bin/python" && ln -s "$0" "$4/bin/mbcore" ;;
    --version) echo mbcore 1 ;;
esac
"""
TO_DO = "start {0}/current/bin/mbcore, or restart its services: systemctl restart 'mbcore@*'\n"


@pytest.fixture
def install(tmp_path):
    """install(*words) -> exit code, standard output, standard error"""
    commands, bundle = tmp_path / "commands", tmp_path / "bundle"
    commands.mkdir()
    for name in COMMANDS:
        (commands / name).symlink_to(shutil.which(name))
    (commands / "python3.99").write_text(PYTHON)
    (commands / "python3.99").chmod(0o755)
    (bundle / "wheels").mkdir(parents=True)
    (bundle / "for.sh").write_text('ARCHITECTURE=board\nPYTHON=3.99\nMACHINES="board 64bit;"\n')
    shutil.copy(RPI / "install.sh", bundle)
    sums = subprocess.run(["sha256sum", "for.sh", "install.sh"], cwd=bundle, capture_output=True, text=True, check=True).stdout
    (bundle / "SHA256SUMS").write_text(sums)

    def run(*words):
        command = ["/bin/sh", bundle / "install.sh", *words]
        done = subprocess.run(command, env={"PATH": str(commands)}, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    return run


# Has a file in memory, as a module, until its input ends.
RUNS = """\
import mmap, sys
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
    print("runs", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def running(request):
    """running(folder) -> a process that has a module of it loaded"""

    def start(folder):
        folder.mkdir(exist_ok=True)
        (folder / "module.so").write_bytes(b"code")
        command = [sys.executable, "-c", RUNS, folder / "module.so"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"runs\n"

        def end():
            process.stdin.close()
            process.stdout.close()
            process.wait()

        request.addfinalizer(end)
        return process

    return start


def test_slots_take_turns_and_what_is_to_do_is_said_each_time(install, tmp_path):
    home = tmp_path / "opt"
    to_do = TO_DO.format(home)
    assert install("--rollback", home)[0] == 1
    assert install(home) == (0, f"mbcore 1 is installed: {home}/current is slot a, {to_do}", "")
    assert install(home) == (0, f"mbcore 1 is installed: {home}/current is slot b, {to_do}", "")
    assert install("--rollback", home) == (0, f"mbcore 1 is back: {home}/current is slot a, {to_do}", "")
    assert install(f"{home}/") == (0, f"mbcore 1 is installed: {home}/current is slot b, {to_do}", "")


def test_a_slot_that_something_runs_from_is_not_filled(install, running, tmp_path):
    home = tmp_path / "opt"
    install(home)
    # Through the link, as services do.
    service = running(home / "current")
    # As of somebody else's folder.
    running(home / "another")
    assert install(home)[0] == 0
    for _ in range(2):
        code, said, errors = install(f"{home}/")
        assert (code, said) == (1, "")
        assert errors == (
            f"install.sh: slot a of {home} is to be filled and process {service.pid} runs from it, nothing was changed:"
            " restart it first, services by systemctl restart 'mbcore@*'\n"
        )
    assert os.readlink(home / "current") == "b"
    assert (home / "a" / "bin" / "python").exists()
    # Back to where it runs from takes nothing away.
    assert install("--rollback", home)[0] == 0
    assert install("--rollback", home)[0] == 0
    service.stdin.close()
    service.wait()
    running(home / "b")
    assert install(home)[0] == 0
    assert os.readlink(home / "current") == "a"
