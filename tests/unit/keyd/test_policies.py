"""keyd keeps the host's own storage policies, in one file that is there whole or not at all."""

import os
import threading

import pytest

from ioflt.errors import ExistsError, MalformedError, NotFoundError, UsageError
from ioflt.keyd.policies import PolicyFile
from ioflt.policy import text
from ioflt.policy.model import StoragePolicy, encryption

GOLD = StoragePolicy("Gold", "0f0e0d0c-0b0a-4908-8706-050403020100", "", (encryption(),), "corp")
SILVER = StoragePolicy("Silver", "0f0e0d0c-0b0a-4908-8706-050403020101")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "policies.json"


def test_they_stay_for_the_next_keyd(path):
    assert text.parse(PolicyFile(path).text()) == ()
    assert not path.exists()
    PolicyFile(path).add(text.write([GOLD]))
    PolicyFile(path).add(text.write([SILVER]))
    assert text.parse(PolicyFile(path).text()) == (GOLD, SILVER)
    assert os.stat(path).st_mode & 0o777 == 0o600
    PolicyFile(path).remove("Gold")
    assert text.parse(path.read_bytes()) == (SILVER,)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (text.write([GOLD]), ExistsError),
        (text.write([]), MalformedError),
        (text.write([SILVER, StoragePolicy("x", "0f0e0d0c-0b0a-4908-8706-050403020102")]), MalformedError),
        (b"{}", MalformedError),
    ],
)
def test_what_is_refused_leaves_the_file_as_it_is(path, data, error):
    PolicyFile(path).add(text.write([GOLD]))
    before = path.read_bytes()
    with pytest.raises(error):
        PolicyFile(path).add(data)
    for name, refused in (("Datastore Default", UsageError), ("Silver", NotFoundError)):
        with pytest.raises(refused):
            PolicyFile(path).remove(name)
    assert path.read_bytes() == before


def test_a_damaged_file_is_named_and_not_overwritten(path):
    path.write_bytes(b'{"format":1,"policies":[],}\n')
    for call in (PolicyFile.text, lambda file: file.add(text.write([GOLD]))):
        with pytest.raises(MalformedError, match=r"policies\.json: bad JSON"):
            call(PolicyFile(path))
    assert path.read_bytes() == b'{"format":1,"policies":[],}\n'


def test_changes_of_several_threads_are_all_there(path):
    kept = PolicyFile(path)
    made = [StoragePolicy(f"p{n}", f"00000000-0000-4000-8000-{n:012}") for n in range(8)]
    threads = [threading.Thread(target=kept.add, args=(text.write([one]),)) for one in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(text.parse(kept.text())) == set(made)
