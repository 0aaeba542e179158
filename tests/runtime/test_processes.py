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

import forked
import numpy as np
import psutil
import pytest
import torch
import torchrun_worker
from helpers import ROOT, assert_same_tensors, load_plain, wait_until
from hypothesis import given
from hypothesis import strategies as st

from chestxray.data.dataset import batches
from chestxray.runtime.processes import ONE_PROCESS, Processes
from chestxray.runtime.signals import StopRequest
from chestxray.scores import read_scores

SCRIPT = ROOT / "tests" / "torchrun_worker.py"
RUN = ("--weights", "none", "--size", 32, "--precision", "fp32", "--workers", 0)
RESUME = ("--resume", "--precision", "fp32", "--workers", 0)
PATIENCE = 300  # seconds: a machine may be busy
ENDS_WITHIN = 60  # seconds: promised for a job of which a process has died


def slow(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.slow(pytest.mark.timeout(900)(test))


class Several(Processes):
    """One of several, as far as nothing is exchanged."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


@given(st.integers(1, 5), st.integers(1, 4), st.integers(2, 60), st.data())
def test_shares_make_the_batch_and_their_weighted_means_its_mean(
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


def torchrun(count: int, *options: str) -> list[str]:
    """The start of a command; its end are the words for torchrun_worker.py."""
    start = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}")
    return [sys.executable, *start, *options, str(SCRIPT)]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """One thread each; and a folder for the names of the images that are trained on."""
    notes = folder / "notes"
    notes.mkdir(exist_ok=True)
    return {"OMP_NUM_THREADS": "1", "NOTES": str(notes), **more}


@contextlib.contextmanager
def started(
    folder: Path, command: list[str], *words: object, **more: str
) -> "Iterator[subprocess.Popen[str]]":
    """torchrun under way; at the end of the block nothing of it is left."""
    process = subprocess.Popen(
        [*command, *map(str, words)],
        cwd=folder,
        env={**os.environ, **environment(folder, **more)},
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


def ran(
    count: int, folder: Path, *words: object, **more: str
) -> "subprocess.CompletedProcess[str]":
    """torchrun_worker.py in so many processes to its end."""
    with started(folder, torchrun(count), *words, **more) as job:
        output, errors = job.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess(job.args, job.returncode, output, errors)


def ran_alone(folder: Path, *words: object, **more: str) -> forked.Ended:
    """main.py with its notes in a process of its own, without torchrun."""
    folder.mkdir(exist_ok=True)
    function = torchrun_worker.main_with_notes
    return forked.ran(function, words, folder, **environment(folder, **more))


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@slow
@pytest.mark.parametrize("count", [2, 3])
def test_several_compute_the_steps_and_the_scores_of_one(
    count: int, tmp_path: Path, one_thread: None
) -> None:
    done = ran(count, tmp_path, "group", "found.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    batch = torchrun_worker.BATCH
    for images, (losses, head) in zip(torchrun_worker.TRAINED, found["steps"], strict=True):
        expected, expected_head = torchrun_worker.steps(images, ONE_PROCESS)
        assert len(losses) == max(1, images // batch)
        np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-4)
        np.testing.assert_allclose(head, expected_head, rtol=0, atol=1e-5)
    for images, scores in zip(torchrun_worker.SCORED, found["scores"], strict=True):
        expected_scores = torchrun_worker.scores(images, ONE_PROCESS)
        assert len(scores) == images
        np.testing.assert_allclose(np.reshape(scores, (-1, 15)), expected_scores, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def trained(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with a checkpoint of one epoch by one process."""
    folder = tmp_path_factory.mktemp("trained")
    done = ran_alone(folder, "--data_path", drawn, *RUN, "--epochs", 1)
    assert done.returncode == 0, done.stderr
    yield folder
    shutil.rmtree(folder)


@slow
@pytest.mark.parametrize(("count", "images"), [(2, 13), (3, 2)])
def test_a_test_by_several_has_the_rows_and_the_auc_of_one(
    count: int, images: int, trained: Path
) -> None:
    """With uneven shares, and with a process that has nothing to score."""
    held = load_plain(trained / "checkpoints" / "last.pth")
    names = held["split"]["test"]["images"].split("\n")[:images]
    assert len(names) == images
    (trained / "subset.txt").write_text("".join(f"{name}\n" for name in names))
    words = ("--test", "--ckpt", "last.pth", "--subset", "subset.txt", "--bs", 2)
    words = (*words, "--precision", "fp32", "--overwrite", "--scores")
    alone = ran_alone(trained, *words, "one.csv")
    done = ran(count, trained, "main", *words, "several.csv")
    assert (alone.returncode, done.returncode) == (0, 0), done.stderr
    one, several = (read_scores(trained / name) for name in ("one.csv", "several.csv"))
    assert list(several.image_names) == sorted(names) == list(one.image_names)
    assert np.array_equal(several.targets, one.targets)
    np.testing.assert_allclose(several.scores, one.scores, rtol=0, atol=1e-5)
    rows = [
        re.findall(r"^.* (?:positives|few|mean of|n/a).*$", output, re.M)
        for output in (alone.stdout, done.stdout)
    ]
    assert rows[0] and rows[0] == rows[1]


def trained_on(folder: Path) -> Counter[str]:
    """The images that were trained on since the last look, by all processes."""
    seen: Counter[str] = Counter()
    for path in (folder / "notes").glob("*.txt"):
        seen.update(path.read_text().split())
        path.unlink()
    return seen


@slow
def test_a_stopped_job_can_be_resumed_by_two_one_and_three(drawn: Path, tmp_path: Path) -> None:
    words = ("main", "--data_path", drawn, *RUN, "--bs", 2, "--epochs", 2)
    straight, stopped, other = (tmp_path / name for name in ("straight", "stopped", "other"))
    for folder in (straight, stopped):
        folder.mkdir()
    done = ran(2, straight, *words)
    assert done.returncode == 0, done.stderr
    whole = trained_on(straight)
    train_part = load_plain(straight / "checkpoints" / "last.pth")["split"]["train"]["images"]
    assert whole == Counter({name: 2 for name in train_part.split("\n")})

    done = ran(2, stopped, *words, STOP="1 3 SIGUSR1")
    assert done.returncode == 1 and done.stderr.count("stopped by SIGUSR1") == 1
    assert done.stdout.count("torchrun --standalone --nproc-per-node=2 main.py --resume") == 1
    held = load_plain(stopped / "checkpoints" / "last.pth")
    assert (held["epochs_done"], held["images_done"], held["processes"]) == (0, 16, 2)
    shutil.copytree(stopped, other)
    before = trained_on(stopped)
    assert before.total() == 16
    done = ran(2, stopped, "main", *RESUME)
    assert done.returncode == 0, done.stderr
    assert before + trained_on(stopped) == whole
    paths = [folder / "checkpoints" / "last.pth" for folder in (straight, stopped)]
    assert_same_tensors(*paths)
    ends = [load_plain(path) for path in paths]
    for first, second in zip(ends[0]["history"], ends[1]["history"], strict=True):
        assert {**first, "run_id": "", "seconds": 0} == {**second, "run_id": "", "seconds": 0}

    # The same epoch by two, then one, then three; it ends with the rest that three do.
    alone = ran_alone(other, *RESUME, STOP="0 4")
    assert alone.returncode == 143 and "processes 2 -> 1" in alone.stdout
    held = load_plain(other / "checkpoints" / "last.pth")
    assert (held["epochs_done"], held["images_done"], held["processes"]) == (0, 26, 1)
    done = ran(3, other, "main", *RESUME)
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


@slow
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
        wait_until(last.exists, PATIENCE)
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
    done = ran_alone(tmp_path, *RESUME, STOP="0 2")
    assert "stopped by SIGTERM" in done.stderr, done.stderr
    after = load_plain(last)
    place = ("epochs_done", "images_done")
    assert [after[key] for key in place] > [before[key] for key in place]


@slow
def test_wrong_usage_is_said_once(tmp_path: Path) -> None:
    done = ran(2, tmp_path, "main", "--stage", 7)
    assert (done.stdout + done.stderr).count("invalid choice: 7") == 1, done.stderr
    assert "exitcode  : 2 " in done.stderr  # of the process, in torchrun's report


@slow
def test_broken_images_are_said_once_and_end_the_job(drawn: Path, tmp_path: Path) -> None:
    """Before training."""
    data = tmp_path / "data"
    shutil.copytree(drawn, data)
    broken = sorted(data.rglob("*.png"))[3]
    broken.write_bytes(broken.read_bytes()[:200])
    done = ran(2, tmp_path, "main", "--data_path", data, *RUN)
    assert done.returncode == 1
    assert (done.stdout + done.stderr).count(broken.name) == 1, done.stderr
    assert "exitcode  : 1 " in done.stderr
    assert not list((tmp_path / "checkpoints").glob("*.pth"))


def decoded(folder: Path) -> Counter[str]:
    """The images that were decoded, by all processes."""
    notes = (folder / "notes").glob("*.decoded")
    return Counter(name for path in notes for name in path.read_text().split())


@slow
@pytest.mark.parametrize(
    ("fault", "message", "count"),
    [
        ("fail", "made up by a test", 2),
        # Where torchrun is quicker than they, it stops those who wait before they notice.
        ("die", "another process of the job has died|process 1: stopped by SIGTERM", 3),
    ],
)
def test_a_fault_of_the_one_that_decodes_ends_those_who_wait(
    fault: str, message: str, count: int, drawn: Path, tmp_path: Path
) -> None:
    done = ran(count, tmp_path, "main", "--data_path", drawn, *RUN, DECODE=fault)
    assert done.returncode == 1 and len(re.findall(message, done.stderr)) == 1, done.stderr
    assert decoded(tmp_path).total() == 1  # nobody else has begun


@slow
def test_torchruns_own_restart_goes_on(drawn: Path, tmp_path: Path) -> None:
    """All that a job has noted in torchrun's store is of one start of its processes."""
    words = ("--data_path", drawn, *RUN, "--bs", 2, "--epochs", 1)
    stopped = ran_alone(tmp_path, *words, STOP="0 5")
    assert "stopped by SIGTERM" in stopped.stderr
    before = trained_on(tmp_path)
    with started(tmp_path, torchrun(2, "--max-restarts=1"), "main", *RESUME) as job:
        wait_until(lambda: trained_on_so_far(tmp_path) >= 8, PATIENCE)
        kill_rank(1)(job)
        output, errors = job.communicate(timeout=PATIENCE)
    assert job.returncode == 0, errors
    assert output.count("resuming from") == 2
    held = load_plain(tmp_path / "checkpoints" / "last.pth")
    train_part = held["split"]["train"]["images"].split("\n")
    assert held["epochs_done"] == 1
    assert set(before + trained_on(tmp_path)) == set(train_part)


def trained_on_so_far(folder: Path) -> int:
    return sum(len(path.read_text().split()) for path in (folder / "notes").glob("*.txt"))


def one_of_two_machines() -> list[str]:
    """The start of a command that is typed twice: two agents meet at a port of the loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = ("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=test")
    where = (f"--rdzv-endpoint=127.0.0.1:{port}", "--local-addr=127.0.0.1")
    return [sys.executable, "-m", "torch.distributed.run", *start, *where, str(SCRIPT)]


def two_machines(
    folders: tuple[Path, Path],
    words: tuple[object, ...],
    other_words: tuple[object, ...] | None = None,
) -> "list[subprocess.CompletedProcess[str]]":
    """main.py on both to its end, each working in its folder."""
    command = [*one_of_two_machines(), "main"]
    with (
        started(folders[0], command, *words) as first,
        started(folders[1], command, *(other_words or words)) as second,
    ):
        return [
            subprocess.CompletedProcess(agent.args, agent.returncode, output, errors)
            for agent in (first, second)
            for output, errors in [agent.communicate(timeout=PATIENCE)]
        ]


@slow
def test_two_machines_train_and_test_together(drawn: Path, tmp_path: Path) -> None:
    """Each has a folder of its own; one of them writes, and its checkpoint is copied."""
    folders = (tmp_path / "one", tmp_path / "other")
    for folder in folders:
        folder.mkdir()
    ends = two_machines(folders, ("--data_path", drawn, *RUN, "--bs", 4, "--epochs", 1))
    assert [end.returncode for end in ends] == [0, 0], ends
    assert sorted(end.stdout.count("processes: 2 on 2 machines") for end in ends) == [0, 1]
    wrote, not_wrote = sorted(folders, key=lambda f: not (f / "checkpoints" / "last.pth").exists())
    assert not (not_wrote / "checkpoints" / "last.pth").exists()
    train_part = load_plain(wrote / "checkpoints" / "last.pth")["split"]["train"]["images"]
    seen = trained_on(wrote) + trained_on(not_wrote)
    assert seen == Counter(train_part.split("\n"))
    for folder in folders:  # each decodes for itself, and once
        assert set(decoded(folder).values()) == {1}
    shutil.copytree(wrote / "checkpoints", not_wrote / "checkpoints", dirs_exist_ok=True)
    ends = two_machines(folders, ("--test", "--ckpt", "last.pth", "--workers", 0))
    assert [end.returncode for end in ends] == [0, 0], ends
    (path,) = [p for f in folders for p in f.glob("checkpoints/*_scores.csv")]
    names = list(read_scores(path).image_names)
    assert len(names) == len(set(names)) > 0


@slow
def test_machines_that_differ_are_refused_by_name(drawn: Path, tmp_path: Path) -> None:
    words = ("--data_path", drawn, *RUN, "--epochs", 1, "--bs")
    ends = two_machines((tmp_path, tmp_path), (*words, 4), (*words, 5))
    assert [end.returncode for end in ends] == [1, 1]
    (line,) = [line for end in ends for line in end.stderr.splitlines() if "error: options" in line]
    assert "bs=4" in line and "bs=5" in line and "all need the same command" in line
    assert not (tmp_path / "checkpoints" / "last.pth").exists()


@slow
def test_machines_with_other_copies_of_a_checkpoint_are_refused(
    drawn: Path, tmp_path: Path
) -> None:
    folders = (tmp_path / "one", tmp_path / "other")
    words = ("--data_path", drawn, *RUN, "--bs", 4, "--epochs", 1)
    assert ran_alone(folders[0], *words, STOP="0 2").returncode == 143
    shutil.copytree(*folders)
    assert ran_alone(folders[1], *RESUME, STOP="0 1").returncode == 143
    ends = two_machines(folders, RESUME)
    assert [end.returncode for end in ends] == [1, 1]
    said = "".join(end.stderr for end in ends)
    assert said.count("error: checkpoint: ") == 1, said
