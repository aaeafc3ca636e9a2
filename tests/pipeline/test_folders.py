"""Class folders: which videos train, which validate, and whose labels are known."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.datasets import DataOptions, DataSplit, split_videos
from pipeline.errors import InputError
from pipeline.lists import write_list
from tests.pipeline.replicas import FakeIndex, make_index


def classes(sizes: dict[str, int], prefix: str = "") -> list[str]:
    return [f"{prefix}{name}/{video:03d}.mp4" for name, size in sizes.items() for video in range(size)]


def split_folder(index: FakeIndex, seed: int = 0, **options: Any) -> DataSplit:
    return split_videos(index, DataOptions(**options), seed=seed)


def names(index: FakeIndex, rows: Iterable[int]) -> set[str]:
    return {index.paths[row] for row in rows}


def per_class(split: DataSplit, rows: np.ndarray) -> list[int]:
    return [int((split.labels[rows] == label).sum()) for label in range(len(split.class_names))]


def test_class_folders_are_split_into_training_and_validation(tmp_path: Path) -> None:
    index = make_index(tmp_path, classes({"run": 10, "jump": 5, "sit": 2}))
    split = split_folder(index)
    assert split.class_names == ("jump", "run", "sit")
    assert [split.class_names[label] for label in split.labels] == [path.split("/")[0] for path in index.paths]
    assert per_class(split, split.val) == [1, 2, 1]
    assert per_class(split, split.labeled) == [4, 8, 1]
    assert split.labeled.tolist() == split.unlabeled.tolist()
    assert all(rows.dtype == np.int64 for rows in (split.labels, split.labeled, split.unlabeled, split.val))


def test_train_and_val_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    index = make_index(tmp_path, classes({"a": 3, "b": 2}, "train/") + classes({"a": 1, "b": 4}, "val/"))
    split = split_folder(index)
    assert split.class_names == ("a", "b")
    assert names(index, split.unlabeled) == {path for path in index.paths if path.startswith("train/")}
    assert names(index, split.val) == {path for path in index.paths if path.startswith("val/")}
    assert per_class(split, split.val) == [1, 4]


def test_without_val_folder_validation_is_drawn_from_train(tmp_path: Path) -> None:
    index = make_index(tmp_path, classes({"a": 10, "b": 10}, "train/"))
    split = split_folder(index, val_fraction=0.3)
    assert per_class(split, split.val) == [3, 3]


def test_a_labeled_list_serves_every_seed(tmp_path: Path) -> None:
    index = make_index(tmp_path, classes({"a": 10, "b": 20}))
    drawn = split_folder(index, labels_per_class=5)
    write_list(tmp_path / "labeled.txt", [(index.paths[row], int(drawn.labels[row])) for row in drawn.labeled])
    vals = set()
    for seed in range(6):
        split = split_folder(index, seed, labeled_list=tmp_path / "labeled.txt")
        assert split.digests["labeled"] == drawn.digests["labeled"]
        assert per_class(split, split.val) == [2, 4]
        assert not set(split.val) & set(split.unlabeled)
        assert seed or split.digests == drawn.digests
        vals.add(split.digests["val"])
    assert len(vals) == 6


def test_a_labeled_list_of_a_whole_class_leaves_none_to_validate(tmp_path: Path) -> None:
    index = make_index(tmp_path, classes({"a": 3, "b": 5}))
    write_list(tmp_path / "labeled.txt", [(path, int(path[0] == "b")) for path in index.paths[:4]])
    with pytest.raises(InputError, match=r"all videos of class 'a' are on the labeled list .*--data\.val-list"):
        split_folder(index, labeled_list=tmp_path / "labeled.txt")


def test_a_name_with_a_line_break_is_refused_before_a_run_lists_it(tmp_path: Path) -> None:
    index = make_index(tmp_path, [*classes({"a": 3, "b": 3}), "b/x\ny.mp4", "b/x\nz.mp4"])
    with pytest.raises(InputError, match=r"'b/x\\n[yz]\.mp4' cannot be listed: rename"):
        split_folder(index)


def test_train_can_be_the_name_of_a_class(tmp_path: Path) -> None:
    index = make_index(tmp_path, classes({"car": 3, "train": 3}))
    assert split_folder(index).class_names == ("car", "train")


def test_folders_inside_a_class_belong_to_it_and_hidden_ones_do_not_count(tmp_path: Path) -> None:
    index = make_index(tmp_path, ["a/1.mp4", "a/x/y/2.mp4", "b/3.mp4", "b/4.mp4", ".cache/5.mp4", ".cache/6.mp4"])
    split = split_folder(index)
    assert split.class_names == ("a", "b")
    assert split.labels.tolist() == [0, 0, 1, 1, -1, -1]
    assert names(index, split.unlabeled) | names(index, split.val) == set(index.paths[:4])


@pytest.mark.parametrize(
    ("labeled", "unlabeled"),
    [
        (classes({"a": 4, "b": 4}), "unlabeled/"),
        (classes({"a": 4, "b": 4}, "train/"), "unlabeled/"),
        (classes({"a": 4, "b": 4}, "train/") + classes({"a": 1, "b": 1}, "val/"), "train/unlabeled/"),
    ],
)
def test_videos_of_unknown_class_train_without_label(tmp_path: Path, labeled: list[str], unlabeled: str) -> None:
    index = make_index(tmp_path, [*labeled, f"{unlabeled}x.mp4", f"{unlabeled}deep/y.mp4"])
    split = split_folder(index, labels_per_class=1)
    unknown = {len(labeled), len(labeled) + 1}
    assert split.class_names == ("a", "b")
    assert set(np.flatnonzero(split.labels == -1)) == unknown
    assert unknown <= set(split.unlabeled)
    assert not unknown & (set(split.labeled) | set(split.val))


def test_labeled_fraction_is_rounded_in_every_class_and_never_zero(tmp_path: Path) -> None:
    index = make_index(
        tmp_path, classes({"a": 20, "b": 10, "c": 3}, "train/") + classes(dict.fromkeys("abc", 1), "val/")
    )
    for fraction, expected in ((0.1, [2, 1, 1]), (0.5, [10, 5, 2]), (1.0, [20, 10, 3])):
        split = split_folder(index, labeled_fraction=fraction)
        assert per_class(split, split.labeled) == expected


SIZES = st.dictionaries(st.sampled_from(["a", "b", "c d", "ü", "e"]), st.integers(4, 12), min_size=2)


@settings(max_examples=50, deadline=None)
@given(sizes=SIZES, k=st.integers(1, 2), val_fraction=st.floats(0.01, 0.5), seed=st.integers(0, 5))
def test_split_is_whole_disjoint_and_balanced(
    sizes: dict[str, int], k: int, val_fraction: float, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    index = make_index(tmp_path_factory.mktemp("split"), classes(sizes))
    split = split_folder(index, labels_per_class=k, val_fraction=val_fraction, seed=seed)
    assert sorted([*split.unlabeled, *split.val]) == list(range(len(index.paths)))
    assert set(split.labeled) <= set(split.unlabeled)
    assert per_class(split, split.labeled) == [k] * len(sizes)
    for name, num_val, num_train in zip(
        split.class_names, per_class(split, split.val), per_class(split, split.unlabeled), strict=True
    ):
        assert num_val >= 1
        assert num_train >= 1
        assert abs(num_val - val_fraction * sizes[name]) <= 1


@settings(max_examples=50, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 5), data=st.data())
def test_draw_depends_on_seed_and_names_only(
    sizes: dict[str, int], seed: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("order")
    index = make_index(root, classes(sizes))
    shuffled = FakeIndex(root, data.draw(st.permutations(index.paths)))
    split, other = (split_folder(each, labels_per_class=2, seed=seed) for each in (index, shuffled))
    assert names(index, split.labeled) == names(shuffled, other.labeled)
    assert names(index, split.val) == names(shuffled, other.val)


@settings(max_examples=50, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 5))
def test_another_class_or_a_longer_one_changes_no_other_class(
    sizes: dict[str, int], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("stable")
    grown = {**sizes, min(sizes): sizes[min(sizes)] + 5, "new": 6}
    before, after = make_index(root / "before", classes(sizes)), make_index(root / "after", classes(grown))
    split, other = (split_folder(index, labels_per_class=2, seed=seed) for index in (before, after))
    for rows, other_rows in ((split.val, other.val), (split.labeled, other.labeled)):
        kept = [
            {n for n in found if n.split("/")[0] not in (min(sizes), "new")}
            for found in (names(before, rows), names(after, other_rows))
        ]
        assert kept[0] == kept[1]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(1, 7))
def test_fewer_labels_are_a_subset_of_more(seed: int, k: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    index = make_index(tmp_path_factory.mktemp("nested"), classes({"a": 10, "b": 10}))
    fewer, more = (set(split_folder(index, labels_per_class=n, seed=seed).labeled) for n in (k, k + 1))
    assert fewer < more


def test_seeds_draw_differently_and_every_video_gets_its_turn(tmp_path: Path) -> None:
    index = make_index(tmp_path, classes({"a": 8, "b": 8}))
    splits = [split_folder(index, labels_per_class=2, seed=seed) for seed in range(40)]
    assert set().union(*(split.labeled.tolist() for split in splits)) == set(range(16))
    assert set().union(*(split.val.tolist() for split in splits)) == set(range(16))


@pytest.mark.parametrize(
    ("paths", "refused", "options", "message"),
    [
        ([], {}, {}, "no class folder"),
        (classes({"a": 3}), {}, {}, "only one class folder, a/"),
        ([*classes({"a": 3, "b": 3}), "stray.mp4"], {}, {}, r"stray\.mp4 lies in no class folder: move it"),
        ([*classes({"a": 3, "b": 3}, "train/"), "train/stray.mp4"], {}, {}, r"stray\.mp4 lies in no class folder"),
        (classes({"a": 3, "b": 3}, "val/"), {}, {}, "val/ but no train/"),
        ([*classes({"a": 3, "b": 3}, "train/"), *classes({"a": 1}, "val/")], {}, {}, "val/? has only one class"),
        (classes({"a": 2, "b": 2}, "train/") + classes({"a": 1, "c": 1}, "val/"), {}, {}, "b/ is in train/ but not in"),
        (classes({"a": 2, "b": 2}, "train/") + classes({"a": 1, "b": 1, "z": 1}, "val/"), {}, {}, "z/ is in val/ but"),
        (
            classes({"a": 2, "b": 2}, "train/") + classes({"a": 1, "unlabeled": 1}, "val/"),
            {},
            {},
            "needs classes: move",
        ),
        (classes({"train/a": 2, "val/a": 2, "test/a": 2}), {}, {}, "test/ beside train/ and val/"),
        (
            classes({"a": 3, "b": 3}),
            {"c/x.mp4": "it is empty", "c/y.mp4": "?"},
            {},
            "'c' .* 2 refused.*x.mp4: it is emp",
        ),
        (classes({"a": 3, "b": 1}), {}, {}, "class 'b' has one usable video"),
        (
            classes({"a": 9, "b": 5}),
            {},
            {"labels_per_class": 5},
            "'b' has 4 training.*--data.labels-per-class 5: use 4 or less",
        ),
    ],
)
def test_what_a_user_can_get_wrong_is_named_with_a_remedy(
    tmp_path: Path, paths: list[str], refused: dict[str, str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        split_folder(make_index(tmp_path, paths, refused), **options)


def test_a_class_folder_without_any_video_is_named(tmp_path: Path) -> None:
    index = make_index(tmp_path, classes({"a": 3, "b": 3}))
    (tmp_path / "nothing").mkdir()
    (tmp_path / "unlabeled").mkdir()  # may be empty
    with pytest.raises(InputError, match="class 'nothing' has no video: put some into"):
        split_folder(index)


@pytest.mark.parametrize("prefixes", [("", ""), ("train/", "val/")])
def test_class_folders_in_tars_count_as_those_on_disk(tmp_path: Path, prefixes: tuple[str, str]) -> None:
    paths = [path for prefix in {*prefixes} for path in classes({"a": 6, "b": 6, "unlabeled": 2}, prefix)]
    paths = [path for path in paths if not path.startswith("val/unlabeled")]
    loose = split_folder(make_index(tmp_path / "loose", paths))
    (tmp_path / "tars").mkdir()
    packed = split_folder(FakeIndex(tmp_path / "tars", paths))
    assert packed.digests == loose.digests
    assert len(packed.val)
    with pytest.raises(InputError, match=r"class 'c' has no usable video, 1 refused"):
        split_folder(FakeIndex(tmp_path / "tars", paths, {f"{prefixes[0]}c/x.mp4": "cut off", "0.tar": "cut off"}))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone is no folder"):
        split_folder(FakeIndex(tmp_path / "gone", []))
