"""Data sets as they lie on disk, complete or not, to who trains, who validates and whose labels are known."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from pipeline.datasets import DataOptions, DataSplit, split_videos
from pipeline.errors import InputError
from pipeline.index import VideoIndex
from pipeline.lists import write_list
from tests.pipeline import replicas
from tests.pipeline.replicas import FakeIndex, make_index


def names(index: FakeIndex, rows: Iterable[int]) -> set[str]:
    return {index.paths[row] for row in rows}


def classes_of(index: FakeIndex, split: DataSplit) -> dict[str, str]:
    return {
        path: split.class_names[label] if label >= 0 else ""
        for path, label in zip(index.paths, split.labels, strict=True)
    }


def as_is(path: str) -> str:
    return path


@pytest.mark.parametrize(
    ("prefix", "spell"),
    [
        ("", as_is),
        ("UCF-101/", as_is),
        ("", lambda path: path.replace(".avi", ".webm")),
        ("videos/", lambda path: path.replace(".avi", ".AVI")),
        ("UCF-101/", lambda path: path.replace("HandStand", "Handstand")),
        ("", lambda path: path.replace("Handstand", "HandStand")),
        ("", lambda path: path.replace("HandstandPushups/v_HandStand", "HandStandPushups/v_Handstand")),
    ],
)
@pytest.mark.parametrize("annotations", [".", "ucfTrainTestlist"])
def test_ucf101_is_found_however_the_copy_spells_it(
    tmp_path: Path, prefix: str, spell: Callable[[str], str], annotations: str
) -> None:
    train, test = replicas.ucf101(tmp_path / annotations)
    index = make_index(tmp_path, sorted(prefix + spell(path) for path in train + test))
    split = split_videos(index)
    assert split.class_names == replicas.UCF101_CLASSES
    assert names(index, split.unlabeled) == {prefix + spell(path) for path in train}
    assert names(index, split.val) == {prefix + spell(path) for path in test}
    found = classes_of(index, split)
    assert all(found[prefix + spell(path)] == path.split("/")[0] for path in train + test)
    assert not split.missing
    assert not split.remarks


@pytest.mark.parametrize("annotations", [".", "testTrainMulti_7030_splits"])
def test_hmdb51_with_all_its_names(tmp_path: Path, annotations: str) -> None:
    videos = replicas.hmdb51(tmp_path / annotations)
    index = make_index(tmp_path, sorted(f"hmdb51_org/{path}" for paths in videos.values() for path in paths))
    split = split_videos(index)
    assert names(index, split.unlabeled) == {f"hmdb51_org/{path}" for path in videos[1]}
    assert names(index, split.val) == {f"hmdb51_org/{path}" for path in videos[2]}
    assert split.remarks == (f"3 videos below {tmp_path} are on no list and are not used",)
    with_unused = split_videos(index, DataOptions(hmdb_unused=True))
    assert names(index, with_unused.unlabeled) == {f"hmdb51_org/{path}" for path in videos[1] + videos[0]}
    assert with_unused.val.tolist() == split.val.tolist()


@pytest.mark.parametrize(
    "place",
    [
        lambda subset, path: f"{subset}/{path}.mp4",
        lambda subset, path: f"k400/{subset}/{path.replace(' ', '_')}.webm",
        lambda subset, path: f"{subset}/{path.split('/')[1]}.mp4",  # as the common mirror has it
        lambda subset, path: f"{path.split('/')[1]}.mp4",
        lambda subset, path: f"videos_{subset}/{path.split('/')[1][:-14]}.mp4",  # without the times
    ],
)
def test_kinetics_is_found_wherever_the_copy_has_it(tmp_path: Path, place: Callable[[str, str], str]) -> None:
    videos = replicas.kinetics(tmp_path / "annotations", val="validate")
    copy = {place(subset, path): (subset, path) for subset, paths in videos.items() for path in paths}
    index = make_index(tmp_path, sorted(copy))
    split = split_videos(index)
    assert split.class_names == ("abseiling", "massaging person's head", "tying tie")
    assert names(index, split.val) == {path for path, (subset, _) in copy.items() if subset == "val"}
    assert names(index, split.unlabeled) == {path for path, (subset, _) in copy.items() if subset == "train"}
    assert classes_of(index, split) == {path: listed.split("/")[0] for path, (_, listed) in copy.items()}


def test_kinetics_copies_of_one_clip_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    videos = replicas.kinetics(tmp_path)
    paths = [f"{subset}/{path}.mp4" for subset, listed in videos.items() for path in listed]
    twice = videos["train"][0]
    index = make_index(tmp_path, sorted([*paths, f"val/{twice}.mp4"]))
    split = split_videos(index)
    assert f"train/{twice}.mp4" in names(index, split.unlabeled)
    assert f"val/{twice}.mp4" not in names(index, split.val)
    index = make_index(tmp_path, sorted([*paths, f"other/train/{twice}.mp4"]))
    with pytest.raises(InputError, match=r"train\.csv, line 2: .* may be other/train/.* or train/.*remove one"):
        split_videos(index)


def test_missing_and_refused_videos_are_counted_and_named(tmp_path: Path) -> None:
    train, test = replicas.ucf101(tmp_path)
    gone, broken, unseen = train[0], train[1], test[0]
    paths = sorted({*train, *test} - {gone, broken, unseen})
    index = make_index(tmp_path, paths, {broken.replace(".avi", ".webm"): "truncated", "x.avi": "empty"})
    split = split_videos(index)
    nowhere = f"neither in {tmp_path} nor one folder below it"
    assert split.missing == {
        gone: nowhere,
        broken: f"{broken.replace('.avi', '.webm')}: truncated",
        unseen: nowhere,
    }
    assert split.remarks == (
        f"2 of 9 training videos on the lists cannot be used; the first, {gone}: {nowhere}",
        f"1 of 3 validation videos on the lists cannot be used; the first, {unseen}: {nowhere}",
    )
    assert names(index, split.unlabeled) | names(index, split.val) == set(paths)


def test_a_folder_with_none_of_the_listed_videos_is_an_error_that_shows_where_was_looked(tmp_path: Path) -> None:
    train, _ = replicas.ucf101(tmp_path)
    with pytest.raises(
        InputError, match=f"9 of 9 training .* none is left; the first, {train[0]} .*line 1.*{tmp_path}"
    ):
        split_videos(make_index(tmp_path, ["a/b.mp4"]))


def test_exact_paths_come_before_others_and_equals_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a/x.avi 0\na/y 0\nb/z.avi 1\n")
    (tmp_path / "val.txt").write_text("./b/w.avi 1\n")
    options = DataOptions(train_list=tmp_path / "train.txt", val_list=tmp_path / "val.txt")
    paths = ["a/x.avi", "a/x.mp4", "a/y.mp4", "b/w.webm", "c/a/x.avi", "c/b/z.mp4"]
    index = make_index(tmp_path, paths)
    split = split_videos(index, options)
    assert names(index, split.unlabeled) == {"a/x.avi", "a/y.mp4", "c/b/z.mp4"}
    assert names(index, split.val) == {"b/w.webm"}
    for other, message in (
        ("a/y.webm", r"train\.txt, line 2: a/y may be a/y\.mp4 or a/y\.webm below"),
        ("d/b/z.mkv", r"train\.txt, line 3: b/z\.avi may be c/b/z\.mp4 or d/b/z\.mkv"),
    ):
        with pytest.raises(InputError, match=message):
            split_videos(make_index(tmp_path, sorted([*paths, other])), options)


@pytest.mark.parametrize(
    ("listed", "path"),
    [
        ("a\\x.avi", "a/x.avi"),
        ("{root}/a/x.avi", "a/x.avi"),
        (".//a/x.avi", "a/x.avi"),
        ("a/über.avi", "a/u\u0308ber.mp4"),  # composed in the list, taken apart by macOS
        ("a/x.y", "a/x.y.mp4"),
        ("x.avi", "x.avi"),
        ("a/X.MP4", "a/X.MP4"),
    ],
)
def test_listed_paths_of_other_systems_are_found(tmp_path: Path, listed: str, path: str) -> None:
    (tmp_path / "train.txt").write_text(f"{listed.format(root=tmp_path)} 0\nb/1.avi 1\n")
    (tmp_path / "val.txt").write_text("b/2.avi 1\n")
    options = DataOptions(train_list=tmp_path / "train.txt", val_list=tmp_path / "val.txt")
    index = make_index(tmp_path, [path, "b/1.avi", "b/2.avi"])
    assert names(index, split_videos(index, options).unlabeled) == {path, "b/1.avi"}


@pytest.mark.parametrize(
    "listed", ["../secret/x.avi", "a/../../x.avi", "..\\x.avi", "/etc/x.avi", "{root}/../x.avi", "{root}2/x.avi", ".."]
)
@pytest.mark.parametrize("option", ["train_list", "val_list", "labeled_list"])
def test_lists_cannot_name_what_is_outside_the_root(tmp_path: Path, listed: str, option: str) -> None:
    for name in ("train_list", "val_list", "labeled_list"):
        lines = f"a/{name[0]}.avi 0\nb/{name[0]}.avi 1\n".replace("/l", "/t")
        (tmp_path / name).write_text(lines + (f"{listed.format(root=tmp_path)} 1\n" if name == option else ""))
    options = DataOptions(
        train_list=tmp_path / "train_list", val_list=tmp_path / "val_list", labeled_list=tmp_path / "labeled_list"
    )
    index = make_index(tmp_path, ["a/t.avi", "a/v.avi", "b/t.avi", "b/v.avi", "x.avi"])
    with pytest.raises(InputError) as error:
        split_videos(index, options)
    place = f"{tmp_path / option}, line 3: {listed.format(root=tmp_path)} is not below {tmp_path}: list it by"
    assert str(error.value).startswith(place)


def test_annotations_cannot_name_what_is_outside_the_root(tmp_path: Path) -> None:
    replicas.hmdb51(tmp_path)
    file = next(tmp_path.glob("*_test_split1.txt"))
    file.write_text(file.read_text() + "../../x.avi 1\n")
    with pytest.raises(InputError, match=rf"{file.name}, line 6: .*/\.\./\.\./x\.avi is not below"):
        split_videos(make_index(tmp_path, ["x.avi"]))


def test_other_names_are_never_taken_for_a_listed_one(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a/001.avi 0\nb/002.avi 1\na/3.avi 0\n")
    (tmp_path / "val.txt").write_text("b/9.avi 1\n")
    options = DataOptions(train_list=tmp_path / "train.txt", val_list=tmp_path / "val.txt")
    index = make_index(tmp_path, ["a/3.avi", "b/001.avi", "b/9.avi", "x/y/a/001.avi"])
    assert set(split_videos(index, options).missing) == {"a/001.avi", "b/002.avi"}


def lists(tmp_path: Path, train: str, val: str | None = None, **options: Path | float | bool) -> DataOptions:
    (tmp_path / "train.txt").write_text(train)
    if val is not None:
        (tmp_path / "val.txt").write_text(val)
        options["val_list"] = tmp_path / "val.txt"
    return DataOptions(train_list=tmp_path / "train.txt", **options)  # type: ignore[arg-type]


def test_lists_alone_name_classes_by_folder_or_file_or_number(tmp_path: Path) -> None:
    index = make_index(tmp_path, [f"{name}/{n}.mp4" for name in ("run", "up") for n in range(3)])
    train, val = "run/0.mp4 9 0\nrun/1.mp4 9 0\nup/0.mp4 9 1\nup/1.mp4 9 1\n", "up/2.mp4 1\nrun/2.mp4 0\n"
    assert split_videos(index, lists(tmp_path, train, val)).class_names == ("run", "up")
    (tmp_path / "names.txt").write_text("1 running\n2 up the hill\n")
    named = lists(tmp_path, train, val, class_names=tmp_path / "names.txt")
    assert split_videos(index, named).class_names == ("running", "up the hill")
    gap = split_videos(index, lists(tmp_path, train.replace(" 1\n", " 2\n"), val.replace(" 1\n", " 2\n")))
    assert gap.class_names == ("0", "1", "2")
    assert gap.remarks == ("1 of 3 classes have no training video: 1",)


def test_without_a_validation_list_videos_are_drawn_and_unknown_ones_only_train(tmp_path: Path) -> None:
    index = make_index(tmp_path, [f"{name}/{n}.mp4" for name in "abu" for n in range(5)])
    label = {"a": 0, "b": 1, "u": -1}
    split = split_videos(index, lists(tmp_path, "".join(f"{path} {label[path[0]]}\n" for path in index.paths)))
    assert [int((split.labels[split.val] == label).sum()) for label in (-1, 0, 1)] == [0, 1, 1]
    assert (split.labels[split.labeled] >= 0).all()
    assert len(split.labeled) == 8
    assert len(split.unlabeled) == 13


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        ("a/0.mp4 0\nb/0.mp4 1\na/0.mp4 1\n", None, r"line 3: a/0\.mp4 has label 1, but 0 in .*train\.txt, line 1"),
        ("a/0.mp4 0\nb/0.mp4 1\n", "b/1.mp4 -1\n", r"val\.txt, line 1: label -1, but validation needs classes"),
        ("a/0.mp4 -1\n", "b/0.mp4 -1\n", "no video on the lists has a class"),
        ("a/0.mp4 0\nb/0.mp4 1\n", "c/1.mp4 1\n", "1 of 1 validation videos .* none is left"),
        ("a/0.mp4 0\nb/0.mp4 1\n", None, "class 'a' has one usable video"),
    ],
)
def test_lists_that_contradict_themselves_are_refused(
    tmp_path: Path, train: str, val: str | None, message: str
) -> None:
    index = make_index(tmp_path, [f"{name}/{n}.mp4" for name in "ab" for n in range(2)])
    with pytest.raises(InputError, match=message):
        split_videos(index, lists(tmp_path, train, val))


def test_lists_without_any_label_are_refused(tmp_path: Path) -> None:
    index = make_index(tmp_path, ["a/0.mp4", "b/0.mp4"])
    (tmp_path / "names.txt").write_text("a\nb\n")
    options = lists(tmp_path, "a/0.mp4 -1\n", "b/0.mp4 1\n", class_names=tmp_path / "names.txt")
    with pytest.raises(InputError, match="no training video has a label"):
        split_videos(index, options)


def test_labels_beyond_the_class_names_are_refused_by_line(tmp_path: Path) -> None:
    index = make_index(tmp_path, ["a/0.mp4", "b/0.mp4"])
    (tmp_path / "names.txt").write_text("a\nb\n")
    options = lists(tmp_path, "a/0.mp4 1\nb/0.mp4 2\n", class_names=tmp_path / "names.txt")
    with pytest.raises(InputError, match=r"train\.txt, line 2: label 2, but there are 2 classes, counted from 0 \(a\)"):
        split_videos(index, options)


def test_a_video_on_both_lists_only_validates(tmp_path: Path) -> None:
    index = make_index(tmp_path, ["a/0.mp4", "a/1.mp4", "b/0.mp4"])
    split = split_videos(index, lists(tmp_path, "a/0.mp4 0\na/1.mp4 0\nb/0.mp4 1\n", "a/1 0\n"))
    assert names(index, split.unlabeled) == {"a/0.mp4", "b/0.mp4"}
    assert "1 videos are on the training and on the validation list and only validate" in split.remarks[0]


@pytest.fixture
def ucf101(tmp_path: Path) -> FakeIndex:
    train, test = replicas.ucf101(tmp_path, num_groups=21)
    return make_index(tmp_path, sorted(train + test))


def videossl_list(index: FakeIndex, file: str, shift: int = 0, wrong: int = 0) -> Path:
    """A list of half of the training videos of the first two classes, as VideoSSL writes them, of folders of frames."""
    paths = [path for path in index.paths if "_g01_" not in path and not path.startswith("HandstandW")][::2]
    lines = []
    for number, path in enumerate(paths):
        label = replicas.UCF101_CLASSES.index(path.split("/")[0]) + shift
        lines.append(f"{path.removesuffix('.avi')} 120 {label + (number < wrong)}\n")
    (index.root / file).write_text("".join(lines))
    return index.root / file


def test_given_lists_of_labels_are_taken_as_they_are(ucf101: FakeIndex) -> None:
    listed = videossl_list(ucf101, "ucf101_train_20_percent.txt")
    split = split_videos(ucf101, DataOptions(labeled_list=listed))
    assert len(split.labeled) == 20
    assert names(ucf101, split.labeled) == {f"{line.split()[0]}.avi" for line in listed.read_text().splitlines()}
    assert len(split.unlabeled) == 60
    assert split.labels_from == "listed in ucf101_train_20_percent.txt"
    assert split.remarks == ("1 of 3 classes have no label: HandstandWalking",)
    without = split_videos(ucf101, DataOptions(labeled_list=listed, exclude_labeled=True))
    assert names(ucf101, without.unlabeled) == names(ucf101, split.unlabeled) - names(ucf101, split.labeled)


@pytest.mark.parametrize("line", ["{folder}/{name}.mp4 {label}\n", "{folder}/{name} 300 {label}\n"])
def test_lists_of_kinetics_fit_a_copy_without_class_folders(tmp_path: Path, line: str) -> None:
    videos = replicas.kinetics(tmp_path)
    index = make_index(tmp_path, sorted(f"{s}/{path.split('/')[1]}.webm" for s in videos for path in videos[s]))
    classes = ("abseiling", "massaging person's head", "tying tie")
    parts = [path.split("/") for path in videos["train"][1:]]
    lines = [line.format(folder=c.replace(" ", "_"), name=name, label=classes.index(c)) for c, name in parts]
    (tmp_path / "labeled.txt").write_text("".join(lines))
    split = split_videos(index, DataOptions(labeled_list=tmp_path / "labeled.txt"))
    assert names(index, split.labeled) == {f"train/{name}.webm" for _, name in parts}
    assert split.remarks == ("1 of 3 classes have no label: tying tie",)


def test_labels_of_a_list_that_differ_are_used_and_named_unless_most_do(ucf101: FakeIndex) -> None:
    split = split_videos(ucf101, DataOptions(labeled_list=videossl_list(ucf101, "l.txt", wrong=2)))
    assert sorted(split.labels[split.labeled].tolist()) == [0] * 8 + [1] * 12
    assert "2 of 20 videos in" in split.remarks[0]
    assert "HandstandPushups, not Archery; the list's are used" in split.remarks[0]
    shifted = videossl_list(ucf101, "one_based.txt", shift=1)
    with pytest.raises(InputError, match=r"20 of 20 videos .* labels have to count from 0"):
        split_videos(ucf101, DataOptions(labeled_list=shifted))
    with pytest.raises(InputError, match=r"20 of 20 videos .* labels have to count from 0"):
        split_videos(ucf101, DataOptions(train_list=shifted))


def test_given_training_list_replaces_the_official_one(tmp_path: Path) -> None:
    videos = replicas.hmdb51(tmp_path)
    index = make_index(tmp_path, sorted(path for paths in videos.values() for path in paths))
    classes = ("clap", "sword", "sword_exercise")
    write_list(tmp_path / "all.txt", [(path, classes.index(path.split("/")[0])) for path in videos[1] + videos[0]])
    given = split_videos(index, DataOptions(train_list=tmp_path / "all.txt"))
    official = split_videos(index, DataOptions(hmdb_unused=True))
    assert given.unlabeled.tolist() == official.unlabeled.tolist()
    assert given.val.tolist() == official.val.tolist()
    assert given.digests == official.digests


def test_labeled_videos_beside_the_training_list_join_it_and_validation_ones_are_refused(tmp_path: Path) -> None:
    videos = replicas.hmdb51(tmp_path)
    index = make_index(tmp_path, sorted(path for paths in videos.values() for path in paths))
    for flag, path in ((0, tmp_path / "unused.txt"), (2, tmp_path / "test.txt")):
        write_list(path, [(video, number) for number, video in enumerate(videos[flag])])
    split = split_videos(index, DataOptions(labeled_list=tmp_path / "unused.txt"))
    assert names(index, split.labeled) == set(videos[0])
    assert names(index, split.unlabeled) == {*videos[0], *videos[1]}
    assert "3 labeled videos are not on the training list and are added to it" in split.remarks[0]
    with pytest.raises(InputError, match=r"test\.txt, line 1: .* is a validation video"):
        split_videos(index, DataOptions(labeled_list=tmp_path / "test.txt"))


def test_uniform_labels_are_a_share_of_all_rounded_down_and_nested(ucf101: FakeIndex) -> None:
    drawn = {}
    for fraction, count in ((0.05, 3), (0.5, 30), (0.999, 59), (1.0, 60), (0.001, 1)):
        split = split_videos(ucf101, DataOptions(labeled_uniform=fraction))
        assert len(split.labeled) == count
        drawn[fraction] = set(split.labeled)
        assert len(split.unlabeled) == 60
    assert drawn[0.001] < drawn[0.05] < drawn[0.5] < drawn[0.999] < drawn[1.0]
    few = [split_videos(ucf101, DataOptions(labeled_uniform=0.05), seed=seed) for seed in range(20)]
    counts = [[(split.labels[split.labeled] == label).sum() for label in range(3)] for split in few]
    assert any(0 in count for count in counts)  # not balanced
    assert any("classes have no label" in remark for split in few for remark in split.remarks)
    assert len({split.digests["labeled"] for split in few}) == 20


@pytest.mark.parametrize(
    "options",
    [{"labels_per_class": 2}, {"labeled_fraction": 0.2}, {"labeled_uniform": 0.3}],
    ids=lambda o: next(iter(o)),
)
def test_every_copy_of_a_data_set_gives_the_same_draw_and_digest(
    ucf101: FakeIndex, options: dict[str, float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    copy = tmp_path_factory.mktemp("copy")
    replicas.ucf101(copy, num_groups=21)
    converted = make_index(copy, ["a.mp4", *(f"deep/{path.removesuffix('.avi')}.mp4" for path in ucf101.paths)])
    split, other = (split_videos(index, DataOptions(**options), seed=3) for index in (ucf101, converted))  # type: ignore[arg-type]
    assert split.digests == other.digests
    assert (split.labeled + 1).tolist() == other.labeled.tolist()
    assert split.digests != split_videos(ucf101, DataOptions(**options), seed=4).digests  # type: ignore[arg-type]
    assert split.labels_from.endswith("drawn by seed 3")


def test_a_drawn_list_given_back_gives_the_same_split(ucf101: FakeIndex) -> None:
    drawn = split_videos(ucf101, DataOptions(labeled_uniform=0.3), seed=5)
    write_list(ucf101.root / "labeled.txt", [(ucf101.paths[row], int(drawn.labels[row])) for row in drawn.labeled])
    given = split_videos(ucf101, DataOptions(labeled_list=ucf101.root / "labeled.txt"))
    assert given.digests == drawn.digests


def test_digests_tell_classes_apart_too(tmp_path: Path) -> None:
    index = make_index(tmp_path, [f"{name}/{n}.mp4" for name in "ab" for n in range(3)])
    train = "".join(f"{path} {int(path[0] == 'b')}\n" for path in index.paths)
    swapped = train.replace("a/0.mp4 0", "a/0.mp4 1")
    first, second = (split_videos(index, lists(tmp_path, text, "b/2.mp4 1\n")).digests for text in (train, swapped))
    assert first["labeled"] != second["labeled"]
    assert first["val"] != second["val"]  # classes are named by number where a folder has videos of two


def test_the_format_is_found_or_asked_for(tmp_path: Path) -> None:
    train, test = replicas.ucf101(tmp_path / "data" / "annotations")
    index = make_index(tmp_path / "data", sorted(train + test))
    assert split_videos(index).class_names == replicas.UCF101_CLASSES
    assert len(split_videos(index, DataOptions(format="ucf101")).val) == 3
    with pytest.raises(InputError, match=r"no annotation files of hmdb51 in .*: give their folder with --data\.annot"):
        split_videos(index, DataOptions(format="hmdb51"))
    replicas.hmdb51(tmp_path / "data" / "splits")
    with pytest.raises(InputError, match=r"annotations of ucf101 in .*/annotations and hmdb51 in .*/splits: choose"):
        split_videos(index)
    assert len(split_videos(index, DataOptions(format="ucf101")).val) == 3
    assert len(split_videos(index, DataOptions(annotations=tmp_path / "data" / "annotations")).val) == 3
    for annotations, message in (
        (tmp_path / "gone", "gone is not a folder"),
        (tmp_path, "no annotation files of ucf101"),
    ):
        with pytest.raises(InputError, match=message):
            split_videos(index, DataOptions(annotations=annotations))
    plain = make_index(tmp_path / "plain", [f"{name}/{n}.mp4" for name in "ab" for n in range(3)])
    assert split_videos(plain).class_names == ("a", "b")


def test_labels_of_a_folder_may_come_from_a_list(tmp_path: Path) -> None:
    index = make_index(
        tmp_path, [f"{kind}/{name}/{n}.mp4" for kind in ("train", "val") for name in "ab" for n in range(3)]
    )
    (tmp_path / "labeled.txt").write_text("train/a/1.mp4 0\ntrain/b/2.mp4 1\n")
    split = split_videos(index, DataOptions(labeled_list=tmp_path / "labeled.txt"))
    assert names(index, split.labeled) == {"train/a/1.mp4", "train/b/2.mp4"}


def test_excluding_every_training_video_is_refused(ucf101: FakeIndex) -> None:
    with pytest.raises(InputError, match=r"every training video is labeled: .* --data\.exclude-labeled"):
        split_videos(ucf101, DataOptions(exclude_labeled=True))


def test_class_names_beside_a_known_data_set_are_refused(ucf101: FakeIndex) -> None:
    with pytest.raises(InputError, match=r"--data\.class-names .*classInd\.txt: .* names the classes already"):
        split_videos(ucf101, DataOptions(class_names=ucf101.root / "classInd.txt"))


def test_real_files_with_links_and_all_kinds_of_names(tmp_path: Path, video: Callable[..., Path]) -> None:
    root, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    source = video("mjpeg", num_frames=4)
    for path in ("Jump/1 2.AVI", "Jump/\u00fcber.avi", "Jump/u\u0308ber 2.Avi", "Jump/.hidden.avi", "Run/#1;&'[x].avi"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        os.link(source, root / path)
    os.link(source, os.fsencode(root / "Run") + b"/caf\xe9.avi")  # no UTF-8
    os.link(source, root / "Run" / "notes.txt")
    (root / "Run" / "gone.avi").symlink_to(tmp_path / "nowhere.avi")
    (root / "Run" / "loop").symlink_to(root)
    elsewhere.mkdir()
    os.link(source, elsewhere / "b.avi")
    (root / "Linked").symlink_to(elsewhere)
    (root / "Run" / "link.avi").symlink_to(source)
    index = VideoIndex.build(root, num_workers=1, progress=False)
    lines = ["Jump/1 2.avi 0", "Jump/u\u0308ber.avi 0", "Jump/\u00fcber 2.avi 0", "Linked/b.avi 1", "Run/link.avi 2"]
    (tmp_path / "train.txt").write_text("\n".join(lines))
    (tmp_path / "val.txt").write_bytes(b"Run/caf\xe9.avi 2\nRun/#1;&'[x].avi 2\n")
    split = split_videos(index, DataOptions(train_list=tmp_path / "train.txt", val_list=tmp_path / "val.txt"))
    assert not split.missing
    assert not split.remarks
    assert split.class_names == ("Jump", "Linked", "Run")
    assert [len(rows) for rows in (split.labeled, split.unlabeled, split.val)] == [5, 5, 2]
    assert len(index.paths) == 7
