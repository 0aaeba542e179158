"""Several processes: each image once, in one order, the numbers of one; every kind of end."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from helpers import ROOT, assert_same_tensors, load_plain, wait_until
from hypothesis import given
from hypothesis import strategies as st
from torchrun_worker import COUNTS, TOTAL, rows, steps
from torchrun_worker import LENGTHS as IMAGES

from chestxray.data.dataset import batches
from chestxray.runtime.processes import ONE_PROCESS, Processes
from chestxray.runtime.signals import StopRequest
from chestxray.scores import read_scores

SCRIPT = ROOT / "tests" / "torchrun_worker.py"
RUN = ("--weights", "none", "--size", 32, "--precision", "fp32", "--workers", 0)
ENDS_WITHIN = 60  # seconds: promised for a job of which a process has died


class Several(Processes):
    """One of several, as far as nothing is exchanged."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


@given(st.integers(1, 5), st.integers(1, 4), st.integers(2, 60), st.data())
def test_the_shares_of_a_batch_are_the_batch_and_their_weighted_means_its_mean(
    size: int, batch_size: int, count: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, count - 1))
    order = np.random.default_rng(count).permutation(count)
    losses = np.random.default_rng(1).uniform(size=count)
    seen: list[int] = []
    for indices in batches(order, batch_size * size, start, least=2 * size):
        shares = [Several(rank, size).training_share(indices, batch_size) for rank in range(size)]
        parts = np.concatenate([Several(rank, size).scoring_share(indices) for rank in range(size)])
        assert sorted(parts) == sorted(indices)
        means = [weight * losses[share].mean() for share, weight in shares]
        assert np.mean(means) == pytest.approx(losses[indices].mean())
        if len(order) - start >= 2 and batch_size >= 2:
            assert min(len(share) for share, _ in shares) >= min(2, len(indices))
        seen += list(indices)
    assert seen == list(order[start:])


def test_one_process_takes_all_and_exchanges_nothing() -> None:
    indices = np.array([5, 2, 9])
    share, weight = ONE_PROCESS.training_share(indices, 2)
    assert list(share) == [5, 2, 9] and weight == 1.0
    values = torch.rand(3, 15)
    assert ONE_PROCESS.mean(values) is values and ONE_PROCESS.gather_rows(values, 3) is values
    stop = StopRequest()
    assert ONE_PROCESS.any_rank_stopped(stop) == stop.check
    assert ONE_PROCESS.describe(32) is None


# From here on torchrun starts real processes.


def torchrun(count: int, *words: object) -> list[str]:
    start = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}")
    return [sys.executable, *start, str(SCRIPT), *map(str, words)]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """One thread each; and a folder for the names of the images that are trained on."""
    notes = folder / "notes"
    notes.mkdir(exist_ok=True)
    return {**os.environ, "OMP_NUM_THREADS": "1", "NOTES": str(notes), **more}


def ran(
    count: int, folder: Path, *words: object, **more: str
) -> "subprocess.CompletedProcess[str]":
    """The script in so many processes, without torchrun for one, to its end."""
    command = torchrun(count) if count > 1 else [sys.executable, str(SCRIPT)]
    with started(folder, command, *words, **more) as job:
        output, errors = job.communicate(timeout=120)
    return subprocess.CompletedProcess(job.args, job.returncode, output, errors)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_a_step_of_several_is_the_step_of_one_with_the_whole_batch(
    count: int, tmp_path: Path, one_thread: None
) -> None:
    done = ran(count, tmp_path, "steps", "found.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    for images, (losses, head) in zip(IMAGES, found, strict=True):
        expected, expected_head = steps(images, TOTAL, ONE_PROCESS)
        assert len(losses) == max(1, images // TOTAL)
        np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-4)
        np.testing.assert_allclose(head, expected_head, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_two_machines_on_one_score_each_image_once(tmp_path: Path, one_thread: None) -> None:
    """Two torchrun agents that meet at a port of the loopback address."""
    two_machines((tmp_path, tmp_path), "rows", "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    for count, scores in zip(COUNTS, found, strict=True):
        expected = rows(count, ONE_PROCESS)
        np.testing.assert_allclose(np.reshape(scores, (-1, 15)), expected, rtol=0, atol=1e-5)


def one_of_two_machines() -> list[str]:
    """The start of a command that is typed twice."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = ("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=test")
    where = (f"--rdzv-endpoint=127.0.0.1:{port}", "--local-addr=127.0.0.1")
    return [sys.executable, "-m", "torch.distributed.run", *start, *where, str(SCRIPT)]


def two_machines(folders: tuple[Path, Path], *words: object) -> list[str]:
    """What both print, each working in its folder, at their end; they end well."""
    command, printed = one_of_two_machines(), []
    one, other = folders
    with started(one, command, *words) as first, started(other, command, *words) as second:
        for agent in (first, second):
            output, errors = agent.communicate(timeout=120)
            assert agent.returncode == 0, errors
            printed.append(output)
    return printed


@contextlib.contextmanager
def started(
    folder: Path, command: list[str], *words: object, **more: str
) -> "Iterator[subprocess.Popen[str]]":
    """torchrun under way; at the end of the block nothing of it is left."""
    process = subprocess.Popen(
        [*command, *map(str, words)],
        cwd=folder,
        env=environment(folder, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            for left in (*psutil.Process(process.pid).children(recursive=True), process):
                left.kill()
            process.communicate()


@pytest.fixture(scope="module")
def trained(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with a checkpoint of one epoch by one process."""
    folder = tmp_path_factory.mktemp("trained")
    done = ran(1, folder, "main", "--data_path", drawn, *RUN, "--epochs", 1)
    assert done.returncode == 0, done.stderr
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("images", COUNTS[:-1])
def test_a_test_by_several_has_the_rows_and_the_auc_of_one(
    images: int,
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    held = load_plain(trained / "checkpoints" / "last.pth")
    names = held["split"]["test"]["images"].split("\n")[:images]
    assert len(names) == images
    (trained / "subset.txt").write_text("".join(f"{name}\n" for name in names))
    words = ("--test", "--ckpt", "last.pth", "--subset", "subset.txt", "--bs", 2)
    import main

    monkeypatch.chdir(trained)
    found, printed = [], []
    for count in (1, 2, 3):
        here = (*words, "--precision", "fp32", "--scores", f"{count}.csv", "--overwrite")
        if count == 1:
            assert main.main([str(word) for word in here]) == 0
            output = capsys.readouterr().out
        else:
            done = ran(count, trained, "main", *here)
            assert done.returncode == 0, done.stderr
            output = done.stdout
        found.append(read_scores(trained / f"{count}.csv"))
        printed.append(re.findall(r"^.* (?:positives|few|mean of|n/a).*$", output, re.M))
    for several in found[1:]:
        assert list(several.image_names) == sorted(names) == list(found[0].image_names)
        assert np.array_equal(several.targets, found[0].targets)
        np.testing.assert_allclose(several.scores, found[0].scores, rtol=0, atol=1e-5)
    assert printed[0] and printed[0] == printed[1] == printed[2]


def trained_on(folder: Path) -> Counter[str]:
    """The images that were trained on since the last look, by all processes."""
    seen: Counter[str] = Counter()
    for path in (folder / "notes").glob("*.txt"):
        seen.update(path.read_text().split())
        path.unlink()
    return seen


@pytest.mark.slow
def test_two_that_were_stopped_go_on_to_the_same_bits_and_one_and_three_can_take_over(
    drawn: Path, tmp_path: Path
) -> None:
    words = ("main", "--data_path", drawn, *RUN, "--bs", 2, "--epochs", 2)
    straight, stopped, other = (tmp_path / name for name in ("straight", "stopped", "other"))
    for folder in (straight, stopped):
        folder.mkdir()
    done = ran(2, straight, *words)
    assert done.returncode == 0, done.stderr
    whole = trained_on(straight)
    train_part = load_plain(straight / "checkpoints" / "last.pth")["split"]["train"]["images"]
    assert whole == Counter({name: 2 for name in train_part.split("\n")})

    done = ran(2, stopped, *words, STOP="1 3")
    assert done.returncode == 1 and done.stderr.count("stopped by SIGTERM") == 1
    assert done.stdout.count("torchrun --standalone --nproc-per-node=2 main.py --resume") == 1
    held = load_plain(stopped / "checkpoints" / "last.pth")
    assert (held["epochs_done"], held["images_done"], held["processes"]) == (0, 16, 2)
    shutil.copytree(stopped, other)
    before = trained_on(stopped)
    assert before.total() == 16
    go_on = ("main", "--resume", "--precision", "fp32", "--workers", 0)
    done = ran(2, stopped, *go_on)
    assert done.returncode == 0, done.stderr
    assert before + trained_on(stopped) == whole
    paths = [folder / "checkpoints" / "last.pth" for folder in (straight, stopped)]
    assert_same_tensors(*paths)
    ends = [load_plain(path) for path in paths]
    for first, second in zip(ends[0]["history"], ends[1]["history"], strict=True):
        assert {**first, "run_id": "", "seconds": 0} == {**second, "run_id": "", "seconds": 0}

    # The same epoch by two, then one, then three; it ends with what three leave of it.
    done = ran(1, other, *go_on, STOP="0 4")
    assert done.returncode == 143 and "processes 2 -> 1" in done.stdout
    held = load_plain(other / "checkpoints" / "last.pth")
    assert (held["epochs_done"], held["images_done"], held["processes"]) == (0, 26, 1)
    done = ran(3, other, *go_on)
    assert done.returncode == 0, done.stderr
    assert "processes 1 -> 3" in done.stdout
    assert trained_on(other) == whole
    history = load_plain(other / "checkpoints" / "last.pth")["history"]
    assert [record["images"] for record in history] == 2 * [len(train_part.split("\n"))]


def processes_in(folder: Path) -> list[psutil.Process]:
    """All that works in a folder: torchrun and what it has started."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(folder):
                found.append(process)
    return found


def kill_rank(rank: int) -> Callable[[subprocess.Popen], None]:
    def kill(job: subprocess.Popen) -> None:
        workers = psutil.Process(job.pid).children()
        (worker,) = [worker for worker in workers if worker.environ()["RANK"] == str(rank)]
        worker.kill()

    return kill


def terminate(job: subprocess.Popen) -> None:
    job.terminate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "environ", "message"),
    [
        (kill_rank(0), {}, "another process of the job has died"),
        (kill_rank(1), {}, "another process of the job has died"),
        (lambda job: None, {"RAISE": "1 5"}, "made up by a test"),
        (terminate, {}, "stopped by SIGTERM"),
    ],
    ids=["kill -9 of the first", "kill -9 of the second", "a fault in one", "TERM to torchrun"],
)
def test_a_job_ends_with_its_message_and_whole_files(
    end: Callable[[subprocess.Popen], None],
    environ: dict[str, str],
    message: str,
    drawn: Path,
    tmp_path: Path,
) -> None:
    words = ("main", "--data_path", drawn, *RUN, "--bs", 2, "--epochs", 90, "--save-minutes", 0)
    last = tmp_path / "checkpoints" / "last.pth"
    with started(tmp_path, torchrun(2), *words, **environ) as process:
        wait_until(last.exists)
        end(process)
        output, errors = process.communicate(timeout=ENDS_WITHIN)
    assert process.returncode == 1
    assert (output + errors).count(message) == 1, errors
    wait_until(lambda: not processes_in(tmp_path), seconds=5)
    before = load_plain(last)
    if end is terminate:
        assert "finishes it" in output and not list(last.parent.glob(".*.tmp"))
    if not environ:  # after a kill -9 it goes on in test_torchruns_own_restart_goes_on
        return
    done = ran(2, tmp_path, "main", "--resume", "--precision", "fp32", STOP="1 2")
    assert "stopped by SIGTERM" in done.stderr, done.stderr
    after = load_plain(last)
    place = ("epochs_done", "images_done")
    assert [after[key] for key in place] > [before[key] for key in place]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--stage", 7), 2, "invalid choice: 7"),
        (("--data_path", "nowhere"), 1, "the data folder nowhere is not there"),
    ],
)
def test_what_all_meet_is_said_once(
    words: tuple[object, ...], code: int, message: str, tmp_path: Path
) -> None:
    done = ran(2, tmp_path, "main", *words)
    assert (done.stdout + done.stderr).count(message) == 1, done.stderr
    assert f"exitcode  : {code} " in done.stderr  # of the process, in torchrun's report


@pytest.mark.slow
def test_broken_images_end_the_job_before_training(drawn: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(drawn, data)
    broken = sorted(data.rglob("*.png"))[3]
    broken.write_bytes(broken.read_bytes()[:200])
    done = ran(2, tmp_path, "main", "--data_path", data, *RUN)
    assert done.returncode == 1 and done.stderr.count(broken.name) == 1, done.stderr
    assert not list((tmp_path / "checkpoints").glob("*.pth"))


def decoded(folder: Path) -> Counter[str]:
    """The images that were decoded, by all processes."""
    notes = (folder / "notes").glob("*.decoded")
    return Counter(name for path in notes for name in path.read_text().split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message"),
    [("fail", "made up by a test"), ("die", "another process of the job has died")],
)
def test_a_fault_of_the_one_that_decodes_ends_those_who_wait(
    fault: str, message: str, drawn: Path, tmp_path: Path
) -> None:
    done = ran(3, tmp_path, "main", "--data_path", drawn, *RUN, DECODE=fault)
    assert done.returncode == 1 and done.stderr.count(message) == 1, done.stderr
    assert decoded(tmp_path).total() == 1  # nobody else has begun


@pytest.mark.slow
def test_torchruns_own_restart_goes_on(drawn: Path, tmp_path: Path) -> None:
    """All that a job has noted in torchrun's store is of one start of its processes."""
    words = ("main", "--data_path", drawn, *RUN, "--bs", 2, "--epochs", 2)
    done = ran(2, tmp_path, *words, STOP="0 3")
    assert "stopped by SIGTERM" in done.stderr
    before = trained_on(tmp_path)
    command = [*torchrun(2)[:-1], "--max-restarts=1", str(SCRIPT)]
    go_on = ("main", "--resume", "--precision", "fp32")
    with started(tmp_path, command, *go_on) as job:
        wait_until(lambda: trained_on_so_far(tmp_path) >= 12)
        kill_rank(1)(job)
        output, errors = job.communicate(timeout=120)
    assert job.returncode == 0, errors
    assert output.count("going on from") == 2
    held = load_plain(tmp_path / "checkpoints" / "last.pth")
    train_part = held["split"]["train"]["images"].split("\n")
    assert held["epochs_done"] == 2
    assert set(before + trained_on(tmp_path)) == set(train_part)


def trained_on_so_far(folder: Path) -> int:
    return sum(len(path.read_text().split()) for path in (folder / "notes").glob("*.txt"))


@pytest.mark.slow
def test_two_machines_train_and_test_together(drawn: Path, tmp_path: Path) -> None:
    """Each has a folder of its own; one of them writes, and its checkpoint is copied."""
    folders = (tmp_path / "one", tmp_path / "other")
    for folder in folders:
        folder.mkdir()
    words = ("main", "--data_path", drawn, *RUN, "--bs", 4, "--epochs", 1)
    printed = two_machines(folders, *words)
    assert sorted(output.count("processes: 2 on 2 machines") for output in printed) == [0, 1]
    wrote, not_wrote = sorted(folders, key=lambda f: not (f / "checkpoints" / "last.pth").exists())
    assert not (not_wrote / "checkpoints" / "last.pth").exists()
    train_part = load_plain(wrote / "checkpoints" / "last.pth")["split"]["train"]["images"]
    seen = trained_on(wrote) + trained_on(not_wrote)
    assert seen == Counter(train_part.split("\n"))
    for folder in folders:  # each decodes for itself, and once
        assert set(decoded(folder).values()) == {1}
    shutil.copytree(wrote / "checkpoints", not_wrote / "checkpoints", dirs_exist_ok=True)
    two_machines(folders, "main", "--test", "--ckpt", "last.pth", "--workers", 0)
    (path,) = [p for f in folders for p in f.glob("checkpoints/*_scores.csv")]
    images = list(read_scores(path).image_names)
    assert len(images) == len(set(images)) > 0


@pytest.mark.slow
def test_machines_that_differ_are_refused_by_name(drawn: Path, tmp_path: Path) -> None:
    command = one_of_two_machines()
    words = ("main", "--data_path", drawn, *RUN, "--epochs", 1, "--bs")
    with (
        started(tmp_path, command, *words, 4) as first,
        started(tmp_path, command, *words, 5) as second,
    ):
        said = [agent.communicate(timeout=120)[1] for agent in (first, second)]
    assert (first.returncode, second.returncode) == (1, 1)
    (line,) = [line for errors in said for line in errors.splitlines() if "error: options" in line]
    assert "bs=4" in line and "bs=5" in line and "all need the same command" in line
    assert not (tmp_path / "checkpoints" / "last.pth").exists()


@pytest.mark.slow
def test_machines_with_other_copies_of_a_checkpoint_are_refused(
    drawn: Path, tmp_path: Path
) -> None:
    folders = (tmp_path / "one", tmp_path / "other")
    words = ("main", "--data_path", drawn, *RUN, "--bs", 4, "--epochs", 1)
    folders[0].mkdir()
    assert ran(1, folders[0], *words, STOP="0 2").returncode == 143
    shutil.copytree(*folders)
    assert ran(1, folders[1], "main", "--resume", *RUN[4:], STOP="0 1").returncode == 143
    command, go_on = one_of_two_machines(), ("main", "--resume", *RUN[4:])
    with (
        started(folders[0], command, *go_on) as first,
        started(folders[1], command, *go_on) as second,
    ):
        said = "".join(agent.communicate(timeout=120)[1] for agent in (first, second))
    assert (first.returncode, second.returncode) == (1, 1)
    assert said.count("error: checkpoint: ") == 1, said
