"""What all workers share is made once, by whoever comes first; and who makes it badly spoils it for all, audibly."""

import multiprocessing
import os
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest
from shared_folders import fill_once, listing

FORK = multiprocessing.get_context("fork")


def slowly(folder: Path) -> None:
    time.sleep(0.05)  # long enough for the others to come meanwhile
    (folder / "made").write_text(str(os.getpid()))
    assert not (folder / "twice").exists()
    (folder / "twice").touch()


def test_of_many_at_once_one_makes_it_and_all_have_the_whole(tmp_path: Path) -> None:
    def use(number: int) -> str:
        try:
            return (fill_once(tmp_path / "shared", "thing", slowly) / "made").read_text()
        except BaseException as error:  # pytest's own would end the thread, and the pool would wait for it
            return repr(error)

    with ThreadPool(8) as pool:  # of threads that start together: the lock is each open file's own
        assert pool.map(use, range(8), chunksize=1) == [str(os.getpid())] * 8


def test_what_failed_is_not_tried_again_and_says_of_what(tmp_path: Path) -> None:
    calls = []

    def badly(folder: Path) -> None:
        calls.append(folder)
        raise ValueError("no such wheel")

    with pytest.raises(ValueError, match="no such wheel"):
        fill_once(tmp_path / "shared", "thing", badly)
    for _ in range(2):
        with pytest.raises(pytest.fail.Exception, match="thing could not be made: ValueError: no such wheel"):
            fill_once(tmp_path / "shared", "thing", badly)
    assert len(calls) == 1


def test_the_half_of_a_process_that_died_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    died = FORK.Process(target=fill_once, args=(tmp_path / "shared", "thing", lambda folder: os._exit(1)))
    died.start()
    died.join()
    with pytest.raises(pytest.fail.Exception, match="half made"):
        fill_once(tmp_path / "shared", "thing", slowly)


def test_a_listing_shows_changed_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("1")
    before = listing(tmp_path)
    assert listing(tmp_path) == before
    (tmp_path / "file").write_text("12")
    assert listing(tmp_path) != before
