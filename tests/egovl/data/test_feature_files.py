from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from egovl.data.feature_files import write_lmdb
from egovl.data.features import FeatureStore, open_features

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def records(count: int, length: int = 4) -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return {f"clip{k:03d}": {"features": rng.normal(size=(length, 3))} for k in range(count)}


class Rows(torch.utils.data.Dataset):
    """A store in loading processes, forked while it is open here."""

    def __init__(self, store: FeatureStore) -> None:
        self.store = store

    def __len__(self) -> int:
        return len(self.store.names())

    def __getitem__(self, index: int) -> np.ndarray:
        if index >= len(self):
            raise IndexError(index)
        return self.store.read(self.store.names()[index])


def test_every_kind_of_file_gives_the_same_matrix(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", features=ROWS, allow_pickle=np.array(True))
    np.savez_compressed(tmp_path / "b.npz", token_features=ROWS, features=ROWS + 1)
    torch.save(torch.from_numpy(ROWS).half(), tmp_path / "c.pt")
    torch.save({"features": torch.from_numpy(ROWS)}, tmp_path / "d.pt")
    save_file({"features": ROWS}, tmp_path / "e.safetensors")
    np.savez(tmp_path / "one.npz", token_features=ROWS[0])
    store = open_features(tmp_path)
    assert list(store.names()) == ["a", "b", "c", "d", "e", "one"]
    for name in "abcde":
        found = store.read(name)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, ROWS)
    np.testing.assert_array_equal(store.read("one"), ROWS[:1])
    with pytest.raises(KeyError, match="has no features of 'f'"):
        store.read("f")


def test_files_that_are_damaged_or_hold_something_else_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", weights=ROWS)
    np.savez(tmp_path / "good.npz", features=ROWS)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:100])
    np.savez(tmp_path / "cube.npz", features=ROWS[None])
    store = open_features(tmp_path)
    for name, message in (
        ("other", "none of"),
        ("cut", "damaged"),
        ("cube", r"shape \[1, 4, 3\]"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            store.read(name)
        assert name in str(caught.value)
    np.testing.assert_array_equal(store.read("good"), ROWS)


def test_an_lmdb_folder_is_read_by_every_process_that_gets_it(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "store", records(5))
    store = open_features(tmp_path / "store")
    assert list(store.names()) == [f"clip{k:03d}" for k in range(5)]
    first = store.read("clip000")
    assert first.dtype == np.float32
    again = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(again.read("clip000"), first)
    loader = torch.utils.data.DataLoader(Rows(again), batch_size=None, num_workers=2)
    assert [rows.shape for rows in loader] == [(4, 3)] * 5
    with pytest.raises(KeyError, match="'clip9'"):
        store.read("clip9")


def test_a_truncated_lmdb_names_what_is_lost_and_gives_the_rest(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    write_lmdb(folder, records(60, length=400))
    whole = (folder / "data.mdb").read_bytes()
    expected = {name: open_features(folder).read(name) for name in records(60)}
    (folder / "data.mdb").write_bytes(whole[: len(whole) * 2 // 3])
    store = open_features(folder)
    found, lost = 0, 0
    for name, features in expected.items():
        try:
            np.testing.assert_array_equal(store.read(name), features)
            found += 1
        except ValueError as error:
            assert name in str(error)
            lost += 1
    assert found + lost == 60
    assert lost
    (folder / "data.mdb").write_bytes(b"")
    with pytest.raises(ValueError, match="copy it again"):
        open_features(folder).read("clip000")


def test_a_record_that_was_cut_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    import lmdb

    write_lmdb(tmp_path, records(3))
    with lmdb.open(str(tmp_path)) as environment, environment.begin(write=True) as transaction:
        value = transaction.get(b"clip001")
        transaction.put(b"clip001", value[: len(value) // 2])
    store = open_features(tmp_path)
    with pytest.raises(ValueError, match=r"clip001.*damaged"):
        store.read("clip001")
    assert store.read("clip002").shape == (4, 3)
