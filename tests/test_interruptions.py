"""Real processes, injured for real: killed, signalled, starved, cut off; nothing is lost."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import ROOT, assert_same_tensors, load_plain, log_values, wait_until
from PIL import Image

from chestxray.checkpoints import checkpoint
from chestxray.scores import read_scores
from chestxray.training import run_folder

pytestmark = pytest.mark.slow
MACHINE = ("--workers", 0, "--precision", "fp32")  # no checkpoint keeps these
SMALL = ("--weights", "none", "--size", 32, "--bs", 8, *MACHINE)
MAIN = [sys.executable, str(ROOT / "main.py")]


def started(words: tuple[object, ...], cwd: Path, **options: Any) -> subprocess.Popen:
    """main.py in a session of its own, so that a signal can go to its whole group."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(
        [*MAIN, *map(str, words)], cwd=cwd, text=True, start_new_session=True, **pipes
    )


def ran(words: tuple[object, ...], cwd: Path, before: str = "", **options: Any) -> Any:
    """main.py to its end, in a shell that does something `before`."""
    command = f'{before}\nexec "$@"'
    return subprocess.run(
        ["bash", "-c", command, "bash", *MAIN, *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        **options,
    )


def at(path: Path) -> int | None:
    """Which file bears a name now."""
    return path.stat().st_ino if path.exists() else None


def in_one_or_two_lines(text: str) -> bool:
    return 1 <= len(text.strip().splitlines()) <= 2 and "Traceback" not in text


def left_over(folder: Path) -> list[Path]:
    return [*folder.glob(".*.tmp"), *folder.glob(".holder")]


@pytest.fixture(scope="module")
def trained(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with a cache, and an output folder of one epoch and its test."""
    folder = tmp_path_factory.mktemp("trained")
    for words in (("--data_path", drawn, *SMALL, "--epochs", 1), ("--test", "--ckpt", "last.pth")):
        done = ran((*words, "--precision", "fp32"), folder)
        assert done.returncode == 0, done.stderr
    yield folder
    shutil.rmtree(folder)


@pytest.mark.timeout(900)
def test_a_run_killed_twenty_times_ends_as_the_straight_one(drawn: Path, tmp_path: Path) -> None:
    """kill -9 at random moments of training, validation and saving; each time a bare --resume."""
    words = ("--data_path", drawn, *SMALL, "--bs", 4, "--epochs", 6)
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
    done = ran(words, tmp_path / "straight")
    assert done.returncode == 0, done.stderr
    words = (*words, "--save-minutes", 0)
    out = tmp_path / "killed" / "checkpoints"
    last = out / "last.pth"
    rng = random.Random(0)
    kills = in_writing = 0
    reached = (0, 0)
    while kills < 20:
        process = started(("--resume", *MACHINE) if last.exists() else words, out.parent)
        assert process.stdout is not None
        while "median age" not in (line := process.stdout.readline()):
            assert line, "it had ended before it was killed"
        # Not more than two saves a life, so that no machine is fast enough to finish.
        end, saves, before = time.monotonic() + rng.uniform(0.3, 3), rng.randint(1, 2), at(last)
        while time.monotonic() < end and saves:
            time.sleep(0.002)
            saves -= at(last) != before
            before = at(last)
        time.sleep(rng.uniform(0, 0.4))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it had ended before it was killed"
        kills += 1
        in_writing += len(list(out.glob(".*.tmp")))
        for path in out.glob("*.pth"):
            load_plain(path)
        if (out / "log.jsonl").exists():
            run_folder.read_log(out / "log.jsonl")
        if last.exists():
            held = load_plain(last)
            now = (held["epochs_done"], held["images_done"])
            assert now >= reached
            reached = now
    assert in_writing >= 3  # some kills came while a file was being written
    assert reached > (0, 0)
    done = ran(("--resume", "--save-minutes", 10, *MACHINE), out.parent)
    assert done.returncode == 0, done.stderr
    assert not left_over(out)
    for name in ("straight", "killed"):
        words = ("--test", "--ckpt", "stage1_0001_06.pth", "--precision", "fp32")
        assert ran(words, tmp_path / name).returncode == 0
    straight = tmp_path / "straight" / "checkpoints"
    assert_same_tensors(straight / "stage1_0001_06.pth", out / "stage1_0001_06.pth")
    assert log_values(straight) == log_values(out)
    csv = "stage1_0001_06_test_scores.csv"
    assert (straight / csv).read_bytes() == (out / csv).read_bytes()
    print(f"{kills} kills, {in_writing} files unfinished at them, {reached} reached by then")
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize(
    ("precision", "workers", "stage"), [("fp32", 2, 1), ("bf16", 0, 1), ("bf16", 2, 3)]
)
def test_a_run_stopped_inside_an_epoch_ends_as_the_straight_one(
    drawn: Path, trained: Path, tmp_path: Path, precision: str, workers: int, stage: int
) -> None:
    machine = ("--precision", precision, "--workers", workers)
    words = ("--data_path", drawn, "--weights", "none", "--size", 32, "--bs", 2, "--epochs", 2)
    if stage > 1:
        words = ("--resume", "--ckpt", "last.pth", "--stage", stage, "--epochs", 2, "--bs", 2)
    for name in ("straight", "cut"):
        (tmp_path / name).mkdir()
        if stage > 1:
            shutil.copytree(trained / "checkpoints", tmp_path / name / "checkpoints")
    done = ran((*words, *machine), tmp_path / "straight")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "cut" / "checkpoints"
    process = started((*words, *machine, "--save-minutes", 0), out.parent)
    before = (out / "last.pth").stat().st_ino if stage > 1 else None
    wait_until(lambda: (out / "last.pth").exists() and (out / "last.pth").stat().st_ino != before)
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    held = load_plain(out / "last.pth")
    assert held["images_done"] > 0 and held["stage"] == stage
    done = ran(("--resume", *machine), out.parent)
    assert done.returncode == 0, done.stderr
    last = max(path.name for path in out.glob("stage*.pth"))
    for name in ("straight", "cut"):
        assert ran(("--test", "--ckpt", last, *machine), tmp_path / name).returncode == 0
    straight = tmp_path / "straight" / "checkpoints"
    assert_same_tensors(straight / last, out / last)
    assert log_values(straight) == log_values(out)
    csv = last.replace(".pth", "_test_scores.csv")
    assert (straight / csv).read_bytes() == (out / csv).read_bytes()
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def heavy(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn images' table over large images, so that decoding takes seconds."""
    folder = tmp_path_factory.mktemp("heavy")
    shutil.copytree(drawn, folder, dirs_exist_ok=True)
    Image.effect_noise((2400, 2400), 60).save(folder / "large.png", compress_level=1)
    content = (folder / "large.png").read_bytes()
    (folder / "large.png").unlink()
    for path in (folder / "images").iterdir():
        path.write_bytes(content)
    return folder


def decoding(heavy: Path, folder: Path) -> tuple[subprocess.Popen, list[psutil.Process]]:
    """main.py with two decoding processes at work, and those."""
    words = ("--data_path", heavy, "--weights", "none", "--size", 32, "--workers", 2)
    process = started(words, folder)

    def workers() -> list[psutil.Process]:
        children = psutil.Process(process.pid).children(recursive=True)
        return [
            c
            for c in children
            if "spawn_main" in " ".join(c.cmdline()) and c.cpu_times().user > 0.5
        ]

    wait_until(lambda: len(workers()) == 2)
    return process, workers()


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=10)
    return not alive


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_signal_to_the_whole_group_while_decoding_stops_in_order(
    heavy: Path, tmp_path: Path, signum: int, code: int
) -> None:
    process, workers = decoding(heavy, tmp_path)
    os.killpg(process.pid, signum)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert in_one_or_two_lines(said) and signal.Signals(signum).name in said
    assert gone(workers)
    (index,) = (tmp_path / ".cache").glob("*.index")
    assert len(index.read_text().splitlines()) < 60
    assert not left_over(tmp_path / "checkpoints") and not left_over(tmp_path / ".cache")


@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.3, 0.6, 1.0])
def test_ctrl_c_while_decoding_processes_start_is_a_stop(
    heavy: Path, tmp_path: Path, seconds: float
) -> None:
    command = [sys.executable, "-m", "chestxray.data.decoding", str(heavy), "--workers", "2"]
    process = subprocess.Popen(
        [*command, "--cache-dir", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    children = psutil.Process(process.pid).children
    wait_until(lambda: any("spawn_main" in " ".join(c.cmdline()) for c in children()))
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said == "stopped by SIGINT\n"


def test_a_killed_decoding_process_is_said_and_leaves_no_other(heavy: Path, tmp_path: Path) -> None:
    process, workers = decoding(heavy, tmp_path)
    workers[0].kill()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "a decoding process died" in said and "--workers 0" in said
    assert in_one_or_two_lines(said) and gone(workers)


def test_decoding_processes_end_with_a_parent_that_is_killed(heavy: Path, tmp_path: Path) -> None:
    process, workers = decoding(heavy, tmp_path)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert gone(workers)
    process.communicate()


@pytest.mark.parametrize("line", ["fp32", "median age"])
def test_a_signal_before_the_first_batch_and_in_a_test_stops_with_its_code(
    trained: Path, line: str
) -> None:
    """Scoring is stopped between batches: no CSV is begun."""
    words = ("--test", "--ckpt", "last.pth", "--bs", 1, "--split", "train", "--scores", "stop.csv")
    process = started((*words, "--precision", "fp32"), trained)
    assert process.stdout is not None
    wait_until(lambda: line in process.stdout.readline())  # type: ignore[union-attr]
    os.kill(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143 and "stopped by SIGTERM" in said
    assert not (trained / "stop.csv").exists() and not list(trained.glob(".*.tmp"))


def test_the_command_that_a_stopped_run_prints_finishes_it(
    drawn: Path, tmp_path: Path, trained: Path
) -> None:
    words = ("--data_path", drawn, *SMALL, "--epochs", 1, "--output-dir", "my out", "--bs", 2)
    process = started((*words, "--save-minutes", 0), tmp_path)
    wait_until((tmp_path / "my out" / "last.pth").exists)
    os.kill(process.pid, signal.SIGTERM)
    printed, said = process.communicate(timeout=60)
    assert process.returncode == 143 and in_one_or_two_lines(said)
    (resume_hint,) = [line for line in printed.splitlines() if "finishes it" in line]
    command = resume_hint.partition("; ")[2].removesuffix(" finishes it")
    assert command == "python main.py --resume --workers 0 --precision fp32 --output-dir 'my out'"
    command = command.replace("python main.py", f"{sys.executable} {ROOT / 'main.py'}")
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert load_plain(tmp_path / "my out" / "last.pth")["epochs_done"] == 1
    shutil.rmtree(tmp_path)


def test_a_run_whose_terminal_is_gone_saves_and_leaves_with_the_code_of_a_hangup(
    drawn: Path, tmp_path: Path
) -> None:
    process = started(("--data_path", drawn, *SMALL, "--bs", 2, "--save-minutes", 0), tmp_path)
    wait_until(lambda: (tmp_path / "checkpoints" / "last.pth").exists())
    for stream in (process.stdout, process.stderr):
        assert stream is not None
        stream.close()
    os.kill(process.pid, signal.SIGHUP)
    assert process.wait(60) == 129
    held = load_plain(tmp_path / "checkpoints" / "last.pth")
    assert held["images_done"] > 0 or held["epochs_done"] > 0
    shutil.rmtree(tmp_path)


def test_a_file_that_may_not_grow_so_large_is_said_and_leaves_the_old_ones(
    drawn: Path, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained / "checkpoints", tmp_path / "checkpoints")
    before = {p.name: p.read_bytes() for p in (tmp_path / "checkpoints").glob("[!.]*")}
    words = ("--resume", "--epochs", 1, "--cache-dir", trained / ".cache")
    done = ran(words, tmp_path, before="ulimit -f 100000")
    assert done.returncode == 1
    assert (
        "stage1_0001_02.pth cannot be written (File too large), and what was there" in done.stderr
    )
    assert "it needs more than 102.4 MB" in done.stderr and in_one_or_two_lines(done.stderr)
    after = {p.name: p.read_bytes() for p in (tmp_path / "checkpoints").glob("[!.]*")}
    assert after == before and not left_over(tmp_path / "checkpoints")
    shutil.rmtree(tmp_path)


def test_room_for_two_checkpoints_is_asked_for_before_a_image_is_decoded(
    drawn: Path, tmp_path: Path, small_disk: Path
) -> None:
    done = ran(("--data_path", drawn, *SMALL, "--output-dir", small_disk / "out"), tmp_path)
    assert done.returncode == 1
    assert "out needs 5" in done.stderr and "name another folder" in done.stderr
    assert in_one_or_two_lines(done.stderr)
    assert not (tmp_path / ".cache").exists()


@pytest.mark.parametrize("what", ["a file", "below a file"])
def test_an_output_folder_that_cannot_be_is_said_at_once(
    drawn: Path, tmp_path: Path, what: str
) -> None:
    (tmp_path / "out").write_text("a file")
    place = "out" if what == "a file" else "out/below"
    done = ran(("--data_path", drawn, *SMALL, "--output-dir", place), tmp_path)
    assert done.returncode == 1 and in_one_or_two_lines(done.stderr)
    assert f"the folder {place} cannot be written" in done.stderr


def test_too_little_memory_is_said_with_the_flag_that_helps(drawn: Path, tmp_path: Path) -> None:
    words = ("--data_path", drawn, "--weights", "none", "--size", 1024, "--bs", 60)
    done = ran((*words, "--workers", 0), tmp_path, before="ulimit -v 12000000")
    assert done.returncode == 1
    assert "the memory does not suffice: a smaller --bs takes less" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "checkpoints").glob("*.pth"))


def test_too_few_open_files_are_said_with_the_flag_that_helps(heavy: Path, tmp_path: Path) -> None:
    words = ("--data_path", heavy, "--weights", "none", "--size", 32, "--workers", 64)
    done = ran(words, tmp_path, before="ulimit -n 24")
    assert done.returncode == 1
    assert "Too many open files" in done.stderr and "--workers 0 opens fewer" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_that_diverges_stops_before_the_update_and_keeps_what_was_good(
    trained: Path, tmp_path: Path
) -> None:
    """Weights so large that the first loss is not finite."""
    shutil.copytree(trained / "checkpoints", tmp_path / "checkpoints")
    held = load_plain(tmp_path / "checkpoints" / "last.pth")
    held["model"]["layer4.2.bn3.weight"] *= 1e38
    checkpoint.save(tmp_path / "huge.pth", held)
    before = {p.name: p.read_bytes() for p in (tmp_path / "checkpoints").glob("[!.]*")}
    words = ("--resume", "--ckpt", "huge.pth", "--epochs", 1, "--save-minutes", 0)
    done = ran((*words, "--cache-dir", trained / ".cache"), tmp_path)
    assert done.returncode == 1
    assert "epoch 2 at lr 0.0001 has diverged: the loss is" in done.stderr
    assert "in the batch after 0 images; it holds 0" in done.stderr
    assert "the checkpoints are as they were; a smaller --lr helps" in done.stderr
    assert in_one_or_two_lines(done.stderr)
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "checkpoints").glob("[!.]*")}
    shutil.rmtree(tmp_path)


def test_two_runs_do_not_share_a_folder_but_a_test_may_look_on(
    drawn: Path, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained / "checkpoints", tmp_path / "checkpoints")
    cache = ("--cache-dir", trained / ".cache")
    first = started(("--resume", "--epochs", 40, "--save-minutes", 0, *cache), tmp_path)
    holder = tmp_path / "checkpoints" / ".holder"
    wait_until(holder.exists)
    second = ran(("--resume", "--epochs", 1, *cache), tmp_path)
    assert second.returncode == 1 and in_one_or_two_lines(second.stderr)
    assert f"checkpoints is in use by process {first.pid} since" in second.stderr
    looking = ran(("--test", "--ckpt", "stage1_0001_01.pth", *cache), tmp_path)
    assert looking.returncode == 0, looking.stderr
    assert first.poll() is None
    first.kill()
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    third = ran(("--resume", "--epochs", 1, *cache), tmp_path)
    assert third.returncode == 0, third.stderr
    assert not left_over(tmp_path / "checkpoints")
    shutil.rmtree(tmp_path)


SURROUNDINGS = {
    "C locale": ({"LC_ALL": "C"}, ""),
    "ASCII streams": ({"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}, ""),
    "hash seed and time zone": ({"PYTHONHASHSEED": "7", "TZ": "Asia/Kathmandu"}, ""),
    "umask": ({}, "umask 077"),
    "no stdin": ({}, "exec <&-"),
    "no stdout": ({}, "exec >&-"),
    "no stderr": ({}, "exec 2>&-"),
    "nothing open": ({}, "exec <&- >&- 2>&-"),
    "full stdout": ({}, "exec >/dev/full"),
}


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_surroundings_change_no_byte(drawn: Path, trained: Path, tmp_path: Path, name: str) -> None:
    variables, before = SURROUNDINGS[name]
    place = tmp_path / "Röntgen bilder"
    shutil.copytree(trained / "checkpoints", place / "out put")
    (place / "out put" / "last_test_scores.csv").unlink()
    words = ("--test", "--ckpt", "last.pth", "--output-dir", "out put", "--precision", "fp32")
    done = ran(
        (*words, "--data_path", drawn, "--cache-dir", trained / ".cache"),
        place,
        before,
        env={**os.environ, **variables},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    for file in ("last_test_scores.csv", "last_test_metrics.json"):
        ours = (place / "out put" / file).read_bytes()
        assert ours == (trained / "checkpoints" / file).read_bytes()
    shutil.rmtree(tmp_path)


def test_a_reader_that_leaves_ends_no_work(trained: Path) -> None:
    command = " ".join([*MAIN, "--test", "--ckpt", "last.pth", "--scores", "head.csv"])
    piped = f"{command} --precision fp32 2>err | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", piped], cwd=trained, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0" and len(done.stdout.splitlines()) == 2
    assert (trained / "err").read_text() == ""
    ours, theirs = trained / "head.csv", trained / "checkpoints" / "last_test_scores.csv"
    assert ours.read_bytes() == theirs.read_bytes()
    assert len(read_scores(ours).image_names) > 0


@pytest.mark.parametrize("before", ["exec >/dev/full", "exec <&- >&- 2>&-"])
def test_a_calibration_and_a_drawing_do_not_depend_on_their_streams(
    trained: Path, tmp_path: Path, before: str
) -> None:
    csv = trained / "checkpoints" / "last_test_scores.csv"
    calibration = f"chestxray.conformal {csv} --risk fnr --alpha 0.5 --out {tmp_path}/out"
    for words in (calibration, f"chestxray.phantom {tmp_path}/drawn --n 3"):
        command = f"{before}\nexec {sys.executable} -m {words}"
        done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out" / "sets.csv").stat().st_size > 0
    assert len(list((tmp_path / "drawn" / "images").iterdir())) == 3


def test_paths_with_spaces_other_letters_and_no_letters_work(drawn: Path, tmp_path: Path) -> None:
    data = tmp_path / os.fsdecode(b"NIH R\xc3\xb6ntgen \xff")
    try:
        shutil.copytree(drawn, data)
    except OSError as error:  # such as on macOS
        pytest.skip(f"no such name on this file system: {error}")
    words = ("--data_path", data, *SMALL, "--epochs", 1, "--output-dir", "aus gabe")
    done = ran(words, tmp_path)
    assert done.returncode == 0, done.stderr
    done = ran(("--test", "--ckpt", "last.pth", "--output-dir", "aus gabe"), tmp_path)
    assert done.returncode == 0, done.stderr
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(tmp_path)
