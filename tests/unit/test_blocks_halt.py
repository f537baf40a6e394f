"""Why a worker ends, in one line: what the operating system refuses is no riddle."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaTimeoutError,
    TopicAuthorizationFailedError,
)

from app.blocks.faust.fatal_errors import exhausted, forbidden
from app.errors import UnavailableError
from app.folder_locks import claim_folder
from app.machine_requirements import require_open_files


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "the disk is full: free some space"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "the disk quota is used up"),
        # RocksDB's words
        (
            Exception("IO error: No space left on device: While appending to file: /s/000012.log"),
            "the disk is full: free some space, then start again; no data is lost (IO error",
        ),
        (Exception("IO error: While open a file: /s/1.sst: Too many open files"), "open files, th"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "raise it with `ulimit -n`"),
        (OSError(errno.ECONNRESET, "Connection reset by peer"), None),
        (ValueError("x"), None),
    ],
)
def test_what_is_exhausted_is_named(error: Exception, says: str | None) -> None:
    found = exhausted(error)
    if says is None:
        assert found is None
    else:
        assert says in str(found)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (TopicAuthorizationFailedError("a"), "Kafka forbids topic a to this user"),
        (TopicAuthorizationFailedError({"b", "a"}), "Kafka forbids topic a b to this user"),
        (GroupAuthorizationFailedError("g"), "consumer group g to this user"),
        (ClusterAuthorizationFailedError(), "IDEMPOTENT_WRITE and DESCRIBE on it"),
        (KafkaTimeoutError(), None),
    ],
)
def test_what_kafka_forbids_is_named(error: Exception, says: str | None) -> None:
    found = forbidden(error)
    assert (found is None) if says is None else (says in str(found))


CLAIM = (
    "import sys; from pathlib import Path; from app.folder_locks import claim_folder; "
    "claim_folder(Path(sys.argv[1]), 'X', 'go away')"
)


def claimed_by_another(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CLAIM, str(folder)], capture_output=True, text=True, check=False
    )


def test_a_folder_belongs_to_one_process(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    claim_folder(folder, "X", "go away")
    claim_folder(folder, "X", "go away")  # it may do so again
    refused = claimed_by_another(folder)
    assert f"{folder} belongs to a running process (pid {os.getpid()}): go away" in refused.stderr
    assert (folder / "claim").read_text() == str(os.getpid())
    assert claimed_by_another(tmp_path / "c").returncode == 0
    claim_folder(tmp_path / "c", "X", "go away")  # whoever had it has ended


def test_too_few_open_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    require_open_files(64)
    if hard == resource.RLIM_INFINITY:
        pytest.skip("there is no limit here")
    with pytest.raises(UnavailableError, match=rf"needs {2 * 10**9}: raise the limit"):
        require_open_files(2 * 10**9)
