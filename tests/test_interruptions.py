"""Real processes, harmed for real: killed, signalled, starved, cut off; nothing is lost.

`ran` and `forked` are of tests/forked.py, where a process starts at once; `ran_fresh` and
`started_fresh` start an interpreter.
"""

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from forked import Life, forked, ran
from helpers import ROOT, assert_same_tensors, load_plain, log_values, wait_until
from PIL import Image

import main
from chestxray.checkpoints import checkpoint
from chestxray.scores import read_scores
from chestxray.training import run_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
MACHINE = ("--workers", 0, "--precision", "fp32")  # no checkpoint keeps these
SMALL = ("--weights", "none", "--size", 32, "--bs", 8, *MACHINE)
PATIENCE = 300  # seconds: that it ends is tested, not how soon; a machine may be busy
COMMAND = [sys.executable, str(ROOT / "main.py")]


def started_fresh(words: tuple[object, ...], cwd: Path, **options: Any) -> subprocess.Popen:
    """main.py in a session of its own, so that a signal can go to its whole group."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(
        [*COMMAND, *map(str, words)], cwd=cwd, text=True, start_new_session=True, **pipes
    )


def ran_fresh(words: tuple[object, ...], cwd: Path, before: str = "", **options: Any) -> Any:
    """main.py to its end, in a shell that does something `before`."""
    return subprocess.run(
        ["bash", "-c", f'{before}\nexec "$@"', "bash", *COMMAND, *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        **options,
    )


def inode(path: Path) -> int | None:
    """Which file bears a name now."""
    return path.stat().st_ino if path.exists() else None


def in_one_or_two_lines(text: str) -> bool:
    return 1 <= len(text.strip().splitlines()) <= 2 and "Traceback" not in text


def left_over(folder: Path) -> list[Path]:
    return [*folder.glob(".*.tmp"), *(p for p in folder.glob(".*lock") if p.read_text())]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


def assert_same_runs(straight: Path, other: Path, last: str) -> None:
    """Two output folders with the same weights, moments, log and, after a test, scores."""
    assert_same_tensors(straight / last, other / last)
    assert log_values(straight) == log_values(other)
    for out in (straight, other):
        done = ran(main.main, ("--test", "--ckpt", last, "--output-dir", out), out.parent)
        assert done.returncode == 0, done.stderr
    csv = last.replace(".pth", "_test_scores.csv")
    assert (straight / csv).read_bytes() == (other / csv).read_bytes()


@pytest.fixture(scope="module")
def trained(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with a cache, and an output folder of one epoch and its test."""
    folder = tmp_path_factory.mktemp("trained")
    for words in (("--data_path", drawn, *SMALL, "--epochs", 1), ("--test", "--ckpt", "last.pth")):
        done = ran(main.main, (*words, "--precision", "fp32"), folder)
        assert done.returncode == 0, done.stderr
    yield folder
    shutil.rmtree(folder)


def test_a_run_killed_twenty_times_ends_as_the_straight_one(drawn: Path, tmp_path: Path) -> None:
    """kill -9 at random moments of training, validation and saving; each time a bare --resume."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    for folder in (straight, killed):
        folder.mkdir()
    words: tuple[object, ...] = ("--data_path", drawn, *SMALL, "--bs", 4, "--epochs", 6)
    done = ran(main.main, words, straight)
    assert done.returncode == 0, done.stderr
    out = killed / "checkpoints"
    last = out / "last.pth"
    rng = random.Random(0)
    in_writing, reached = 0, (0, 0)
    checked: dict[Path, tuple[int, int]] = {}
    for _ in range(20):
        more = ("--resume", *MACHINE) if last.exists() else (*words, "--save-minutes", 0)
        with forked(main.main, more, killed) as life:
            life.wait_for_line("median age")
            kill_at_random(life, last, rng)
        in_writing += len(list(out.glob(".*.tmp")))
        for path in out.glob("*.pth"):
            state = path.stat()
            if checked.get(path) != (state.st_ino, state.st_mtime_ns):
                load_plain(path)
                checked[path] = (state.st_ino, state.st_mtime_ns)
        if (out / "log.jsonl").exists():
            run_folder.read_log(out / "log.jsonl")
        if last.exists():
            held = load_plain(last)
            now = (held["epochs_done"], held["images_done"])
            assert now >= reached
            reached = now
    assert in_writing >= 3  # some kills came while a file was being written
    assert reached > (0, 0)
    done = ran_fresh(("--resume", "--save-minutes", 10, *MACHINE), killed)
    assert done.returncode == 0, done.stderr
    assert not left_over(out)
    assert_same_runs(straight / "checkpoints", out, "stage1_0001_06.pth")
    print(f"20 kills, {in_writing} files unfinished at them, {reached} reached by then")


def kill_at_random(life: Life, last: Path, rng: random.Random) -> None:
    """kill -9 after at most two saves, so that no machine is fast enough to finish.

    The moments are in seconds of the process's own work, since other work may slow it down.
    """

    def worked() -> float:
        times = psutil.Process(life.pid).cpu_times()
        return times.user + times.system

    end, saves, before = worked() + rng.uniform(0.5, 6), rng.randint(1, 2), inode(last)
    while worked() < end and saves:
        time.sleep(0.002)
        saves -= inode(last) != before
        before = inode(last)
    end = worked() + rng.uniform(0, 0.5)
    while worked() < end:
        time.sleep(0.002)
    life.kill()
    assert life.end().returncode == -signal.SIGKILL, "it had ended before it was killed"


@pytest.mark.parametrize(
    ("workers", "stage", "signum", "code"),
    [(0, 1, signal.SIGUSR1, 138), (2, 3, signal.SIGUSR2, 140)],
)
def test_a_run_stopped_inside_an_epoch_ends_as_the_straight_one(
    drawn: Path, trained: Path, tmp_path: Path, workers: int, stage: int, signum: int, code: int
) -> None:
    """In bf16, by a batch system's signals; in fp32, by TERM, it is the next test's."""
    machine = ("--precision", "bf16", "--workers", workers)
    words = ("--data_path", drawn, "--weights", "none", "--size", 32, "--bs", 2, "--epochs", 2)
    if stage > 1:
        words = ("--resume", "--ckpt", "last.pth", "--stage", stage, "--epochs", 2, "--bs", 2)
    straight, cut = (tmp_path / name / "checkpoints" for name in ("straight", "cut"))
    for out in (straight, cut):
        out.parent.mkdir()
        if stage > 1:
            shutil.copytree(trained / "checkpoints", out)
    done = ran(main.main, (*words, *machine), straight.parent)
    assert done.returncode == 0, done.stderr
    before = inode(cut / "last.pth")
    with forked(main.main, (*words, *machine, "--save-minutes", 0), cut.parent) as life:
        wait_until(lambda: inode(cut / "last.pth") != before, PATIENCE)
        life.kill(signum)
        assert life.end().returncode == code
    held = load_plain(cut / "last.pth")
    assert held["images_done"] > 0 and held["stage"] == stage
    done = ran(main.main, ("--resume", *machine), cut.parent)
    assert done.returncode == 0, done.stderr
    assert_same_runs(straight, cut, max(path.name for path in cut.glob("stage*.pth")))


def test_the_command_that_a_stopped_run_prints_finishes_it(drawn: Path, tmp_path: Path) -> None:
    """As typed, in fresh interpreters with two threads and two workers, to the same bits."""
    machine = ("--workers", 2, "--precision", "fp32")
    words = ("--data_path", drawn, "--weights", "none", "--size", 32, "--bs", 2, "--epochs", 1)
    two_threads = {**os.environ, "OMP_NUM_THREADS": "2"}
    straight, stopped = tmp_path / "straight", tmp_path / "my out"
    done = ran_fresh((*words, *machine, "--output-dir", straight), tmp_path, env=two_threads)
    assert done.returncode == 0, done.stderr
    words = (*words, *machine, "--output-dir", stopped.name, "--save-minutes", 0)
    process = started_fresh(words, tmp_path, env=two_threads)
    wait_until((stopped / "last.pth").exists, PATIENCE)
    os.kill(process.pid, signal.SIGTERM)
    printed, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143 and in_one_or_two_lines(said)
    (resume_hint,) = [line for line in printed.splitlines() if "finishes it" in line]
    command = resume_hint.partition("; ")[2].removesuffix(" finishes it")
    assert command == "python main.py --resume --workers 2 --precision fp32 --output-dir 'my out'"
    assert load_plain(stopped / "last.pth")["images_done"] > 0
    command = command.replace("python main.py", " ".join(COMMAND))
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=two_threads, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert_same_runs(straight, stopped, "stage1_0001_01.pth")


@pytest.fixture(scope="module")
def heavy(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn images' table over large images, so that decoding takes seconds."""
    folder = tmp_path_factory.mktemp("heavy")
    shutil.copytree(drawn, folder, dirs_exist_ok=True)
    large = folder / "large.png"
    Image.effect_noise((4000, 4000), 60).save(large, compress_level=1)
    for path in (folder / "images").iterdir():
        path.unlink()
        path.hardlink_to(large)
    large.unlink()
    return folder


def decode(heavy: Path) -> tuple[object, ...]:
    return ("--data_path", heavy, "--weights", "none", "--size", 32, "--workers", 2)


def decoding_processes(pid: int) -> list[psutil.Process]:
    """The two that a process has started, once both have decoded for a while."""

    def at_work() -> list[psutil.Process]:
        return [c for c in psutil.Process(pid).children(recursive=True) if decodes(c)]

    def decodes(child: psutil.Process) -> bool:
        try:
            return "spawn_main" in " ".join(child.cmdline()) and child.cpu_times().user > 0.5
        except psutil.NoSuchProcess:  # another child, which has ended meanwhile
            return False

    wait_until(lambda: len(at_work()) == 2, PATIENCE)
    return at_work()


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=10)
    return not alive


@pytest.mark.parametrize(
    ("signum", "code"),
    [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGUSR1, 138)],
)
def test_a_signal_to_the_group_while_decoding_stops_in_order(
    heavy: Path, tmp_path: Path, signum: int, code: int
) -> None:
    process = started_fresh(decode(heavy), tmp_path)
    workers = decoding_processes(process.pid)
    if signum == signal.SIGTERM:  # decoding hangs: a stop does not wait for it
        for worker in workers:
            worker.suspend()
    os.killpg(process.pid, signum)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    assert in_one_or_two_lines(said) and signal.Signals(signum).name in said
    assert gone(workers)
    (index,) = (tmp_path / ".cache").glob("*.index")
    assert len(index.read_text().splitlines()) < 60
    assert not left_over(tmp_path / "checkpoints") and not left_over(tmp_path / ".cache")


@pytest.mark.parametrize("seconds", [0.0, 0.2, 0.4, 0.6])
def test_ctrl_c_while_decoding_processes_start_is_a_stop(
    heavy: Path, tmp_path: Path, seconds: float
) -> None:
    command = [sys.executable, "-m", "chestxray.data.prepare", str(heavy), "--workers", "2"]
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
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "stopped by SIGINT"
    hint = "stopping in order; a second Ctrl-C ends at once"
    assert said.splitlines()[:-1] in ([], [hint])  # none where nothing was begun yet


def test_a_killed_decoding_process_is_said_and_leaves_no_other(heavy: Path, tmp_path: Path) -> None:
    with forked(main.main, decode(heavy), tmp_path) as life:
        workers = decoding_processes(life.pid)
        workers[0].kill()
        done = life.end()
    assert done.returncode == 1
    assert "a decoding process died" in done.stderr and "--workers 0" in done.stderr
    assert in_one_or_two_lines(done.stderr) and gone(workers)


def test_decoding_processes_end_with_a_parent_that_is_killed(heavy: Path, tmp_path: Path) -> None:
    with forked(main.main, decode(heavy), tmp_path) as life:
        workers = decoding_processes(life.pid)
        life.kill()
        assert life.end().returncode == -signal.SIGKILL
        assert gone(workers)


@pytest.mark.parametrize("line", ["fp32", "median age"])
def test_a_signal_before_or_while_scoring_stops_with_its_code(trained: Path, line: str) -> None:
    """Scoring is stopped between batches: no CSV is begun."""
    words = ("--test", "--ckpt", "last.pth", "--bs", 1, "--split", "train", "--scores", "stop.csv")
    with forked(main.main, (*words, "--precision", "fp32"), trained) as life:
        life.wait_for_line(line)
        life.kill(signal.SIGTERM)
        done = life.end()
    assert done.returncode == 143 and "stopped by SIGTERM" in done.stderr
    assert not (trained / "stop.csv").exists() and not list(trained.glob(".*.tmp"))


def test_a_run_whose_terminal_is_gone_saves_and_has_hups_code(drawn: Path, tmp_path: Path) -> None:
    words = ("--data_path", drawn, *SMALL, "--bs", 2, "--save-minutes", 0)
    process = started_fresh(words, tmp_path)
    wait_until((tmp_path / "checkpoints" / "last.pth").exists, PATIENCE)
    for stream in (process.stdout, process.stderr):
        assert stream is not None
        stream.close()
    os.kill(process.pid, signal.SIGHUP)
    assert process.wait(PATIENCE) == 129
    held = load_plain(tmp_path / "checkpoints" / "last.pth")
    assert held["images_done"] > 0 or held["epochs_done"] > 0


def test_a_file_that_may_not_grow_is_said_and_keeps_the_old_ones(
    trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained / "checkpoints", tmp_path / "checkpoints")
    before = contents(tmp_path / "checkpoints")
    words = ("--resume", "--epochs", 1, "--cache-dir", trained / ".cache")
    done = ran(main.main, words, tmp_path, {resource.RLIMIT_FSIZE: 102_400_000})
    assert done.returncode == 1
    assert (
        "stage1_0001_02.pth cannot be written (File too large); nothing was replaced" in done.stderr
    )
    assert "it needs more than 102 MB" in done.stderr and in_one_or_two_lines(done.stderr)
    assert contents(tmp_path / "checkpoints") == before
    assert not left_over(tmp_path / "checkpoints")


def test_room_for_two_checkpoints_is_asked_for_before_decoding(
    drawn: Path,
    tmp_path: Path,
    small_disk: Path,
    chest: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert chest("--data_path", drawn, *SMALL, "--output-dir", small_disk / "out") == 1
    said = capsys.readouterr().err
    assert "no space: " in said and "out needs 5" in said and "name another folder" in said
    assert in_one_or_two_lines(said)
    assert not (tmp_path / ".cache").exists()


@pytest.mark.parametrize("place", ["out", "out/below"])
def test_an_output_folder_that_cannot_be_is_said_at_once(
    drawn: Path,
    tmp_path: Path,
    chest: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    place: str,
) -> None:
    (tmp_path / "out").write_text("a file")
    assert chest("--data_path", drawn, *SMALL, "--output-dir", place) == 1
    said = capsys.readouterr().err
    assert f"the folder {place} cannot be written" in said and in_one_or_two_lines(said)


def test_too_little_memory_is_said_with_the_flag_that_helps(drawn: Path, tmp_path: Path) -> None:
    words = ("--data_path", drawn, "--weights", "none", "--size", 512, "--bs", 60, "--workers", 0)
    done = ran(main.main, words, tmp_path, {resource.RLIMIT_AS: 7_000_000_000})
    assert done.returncode == 1
    assert "the memory does not suffice: a smaller --bs takes less" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "checkpoints").glob("*.pth"))


def test_too_few_open_files_are_said_with_the_flag_that_helps(heavy: Path, tmp_path: Path) -> None:
    words = ("--data_path", heavy, "--weights", "none", "--size", 32, "--workers", 64)
    done = ran(main.main, words, tmp_path, {resource.RLIMIT_NOFILE: 24})
    assert done.returncode == 1
    assert "Too many open files" in done.stderr and "--workers 0 opens fewer" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_that_diverges_stops_before_the_update(
    trained: Path, tmp_path: Path, chest: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights so large that the first loss is not finite; what was good is kept."""
    shutil.copytree(trained / "checkpoints", tmp_path / "checkpoints")
    held = checkpoint.load(tmp_path / "checkpoints" / "last.pth")
    held.model["layer4.2.bn3.weight"] *= 1e38
    checkpoint.save(tmp_path / "huge.pth", held)
    before = contents(tmp_path / "checkpoints")
    words = ("--resume", "--ckpt", "huge.pth", "--epochs", 1, "--save-minutes", 0)
    assert chest(*words, "--cache-dir", trained / ".cache") == 1
    said = capsys.readouterr().err
    assert "epoch 2 at lr 0.0001 has diverged: the loss is" in said
    assert "in the batch after 0 images; it holds 0" in said
    assert "the checkpoints are as they were; a smaller --lr helps" in said
    assert in_one_or_two_lines(said)
    assert contents(tmp_path / "checkpoints") == before


def test_two_runs_do_not_share_a_folder_but_a_test_may_look_on(
    trained: Path, tmp_path: Path, chest: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained / "checkpoints", tmp_path / "checkpoints")
    cache = ("--cache-dir", trained / ".cache")
    words = ("--resume", "--epochs", 40, "--save-minutes", 0, *cache)
    with forked(main.main, words, tmp_path) as first:
        lock = tmp_path / "checkpoints" / ".lock"
        wait_until(lambda: lock.exists() and lock.read_text(), PATIENCE)
        assert chest("--resume", "--epochs", 1, *cache) == 1
        said = capsys.readouterr().err
        assert f"checkpoints is in use by process {first.pid} on " in said
        assert in_one_or_two_lines(said)
        assert chest("--test", "--ckpt", "stage1_0001_01.pth", *cache) == 0
        assert first.is_alive()
        first.kill()
        assert first.end().returncode == -signal.SIGKILL
    assert chest("--resume", "--epochs", 1, *cache) == 0
    assert not left_over(tmp_path / "checkpoints")


SURROUNDINGS = {
    "C locale, hash seed, time zone, umask, no stdin": (
        {"LC_ALL": "C", "PYTHONHASHSEED": "7", "TZ": "Asia/Kathmandu"},
        "umask 077; exec <&-",
    ),
    "ASCII streams, no stderr": (
        {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"},
        "exec 2>&-",
    ),
    "no stdout": ({}, "exec >&-"),
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
    done = ran_fresh(
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


def test_a_reader_that_leaves_ends_no_work(trained: Path) -> None:
    command = " ".join([*COMMAND, "--test", "--ckpt", "last.pth", "--scores", "head.csv"])
    piped = f"{command} --precision fp32 2>err | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", piped], cwd=trained, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0" and len(done.stdout.splitlines()) == 2
    assert (trained / "err").read_text() == ""
    ours, theirs = trained / "head.csv", trained / "checkpoints" / "last_test_scores.csv"
    assert ours.read_bytes() == theirs.read_bytes()
    assert len(read_scores(ours).image_names) > 0


@pytest.mark.parametrize("before", ["exec >/dev/full", "exec <&- >&- 2>&-"])
def test_calibrating_and_drawing_do_not_depend_on_streams(
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
    except OSError as error:  # macOS
        pytest.skip(f"no such name on this file system: {error}")
    words = ("--data_path", data, *SMALL, "--epochs", 1, "--output-dir", "aus gabe")
    done = ran(main.main, words, tmp_path)
    assert done.returncode == 0, done.stderr
    done = ran_fresh(("--test", "--ckpt", "last.pth", "--output-dir", "aus gabe"), tmp_path)
    assert done.returncode == 0, done.stderr
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(tmp_path)
