"""Published annotation files are read as the field reads them, and refused by file and line where they are wrong."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.official import Annotations, has_hmdb51, has_kinetics, has_ucf101, read_hmdb51, read_kinetics, read_ucf101
from tests.pipeline import replicas
from tests.pipeline.test_lists import attempt

READERS: dict[str, Callable[[Path], Annotations]] = {
    "ucf101": partial(read_ucf101, split=1),
    "hmdb51": partial(read_hmdb51, split=1, unused=True),
    "kinetics": read_kinetics,
}


def pairs(annotations: Annotations, subset: str) -> list[tuple[str, str]]:
    return [(entry.path, annotations.class_names[entry.label]) for entry in getattr(annotations, subset)]


def test_ucf101_labels_count_from_zero_and_test_videos_take_their_folder_s(tmp_path: Path) -> None:
    train, test = replicas.ucf101(tmp_path)
    found = read_ucf101(tmp_path, 1)
    assert found.class_names == replicas.UCF101_CLASSES
    assert pairs(found, "train") == [(path, path.split("/")[0]) for path in train]
    assert pairs(found, "val") == [(path, path.split("/")[0]) for path in test]
    assert [entry.label for entry in found.val] == [0, 1, 2]


def test_hmdb51_is_the_official_split_or_all_that_does_not_validate(tmp_path: Path) -> None:
    videos = replicas.hmdb51(tmp_path)
    found = read_hmdb51(tmp_path, 1, unused=False)
    assert found.class_names == ("clap", "sword", "sword_exercise")  # "sword" is the beginning of another class's file
    assert pairs(found, "train") == [(path, path.split("/")[0]) for path in videos[1]]
    assert pairs(found, "val") == [(path, path.split("/")[0]) for path in videos[2]]
    everything = read_hmdb51(tmp_path, 1, unused=True)
    assert sorted(pairs(everything, "train")) == sorted((p, p.split("/")[0]) for p in videos[1] + videos[0])
    assert everything.val == found.val


@pytest.mark.parametrize("val", ["val", "validate"])
def test_kinetics_labels_are_alphabetical_and_test_is_passed_over(tmp_path: Path, val: str) -> None:
    videos = replicas.kinetics(tmp_path, val=val)
    found = read_kinetics(tmp_path)
    assert found.class_names == ("abseiling", "massaging person's head", "tying tie")
    for subset in ("train", "val"):
        assert pairs(found, subset) == [(f"{subset}/{path}", path.split("/")[0]) for path in videos[subset]]


def test_kinetics_split_may_be_in_the_file_s_name_and_times_be_fractions(tmp_path: Path) -> None:
    (tmp_path / "kinetics-400_train.csv").write_text(
        "youtube_id,label,time_start,time_end\nabc,jump,1.0,11.0\nx,run,,\n"
    )
    (tmp_path / "kinetics-400_val.csv").write_text("label,youtube_id,time_start,time_end\njump,-b,0,10\n\n")
    found = read_kinetics(tmp_path)
    assert [entry.path for entry in found.train] == ["train/jump/abc_000001_000011", "train/run/x"]
    assert [entry.path for entry in found.val] == ["val/jump/-b_000000_000010"]


def test_each_folder_is_known_for_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "notes.csv").write_text("day,what\n1,2\n")
    for name in READERS:
        getattr(replicas, name)(tmp_path / name)
    for name, knows in (("ucf101", has_ucf101), ("hmdb51", has_hmdb51), ("kinetics", has_kinetics)):
        assert [folder.name for folder in sorted(tmp_path.iterdir()) if knows(folder)] == [name]


@pytest.mark.parametrize(
    ("reader", "file", "text", "message"),
    [
        (
            "ucf101",
            "trainlist01.txt",
            "Archery/v.avi 1\nJump/v.avi 2\n",
            r"trainlist01\.txt, line 2: 'Jump' is no class",
        ),
        ("ucf101", "trainlist01.txt", "Archery/v.avi 2\n", "line 1: class 2, but Archery is 1 in .*classInd.txt"),
        ("ucf101", "trainlist01.txt", "v_Archery.avi 1\n", "line 1: '' is no class"),
        ("ucf101", "trainlist01.txt", "\n", r"trainlist01\.txt lists no videos"),
        ("ucf101", "classInd.txt", "1 Archery\n", "line 4: 'HandstandPushups' is no class"),
        ("hmdb51", "clap_test_split1.txt", "a.avi 1\nb.avi 3\n", r"clap_test_split1\.txt, line 2: a line is"),
        ("hmdb51", "clap_test_split1.txt", "a.avi\n", "line 1: a line is"),
        (
            "kinetics",
            "train.csv",
            "label,youtube_id,split\n,abc,train\n",
            r"train\.csv, line 2: no label in a row of train",
        ),
        ("kinetics", "train.csv", "label,youtube_id,split\na,b,moon\n", "line 2: split 'moon' is none of train, val"),
        ("kinetics", "train.csv", "label,youtube_id,split\na,,train\n", "line 2: '' from '' to '' is no video"),
        ("kinetics", "train.csv", "label,youtube_id,split\na,../b,train\n", r"line 2: '\.\./b' from"),
        ("kinetics", "train.csv", "label,youtube_id,time_start,time_end\na,b,x,2\n", "line 2: 'b' from 'x' to '2'"),
        ("kinetics", "train.csv", "label,youtube_id,time_start,time_end\na,b,nan,inf\n", "line 2: 'b' from 'nan'"),
        ("kinetics", "train.csv", "label,youtube_id\n", "no row of the subset train: add its CSV file"),
        ("kinetics", "val.csv", "label\n", "no row of the subset val"),
    ],
)
def test_a_wrong_file_is_named_by_line(tmp_path: Path, reader: str, file: str, text: str, message: str) -> None:
    getattr(replicas, reader)(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match=message) as error:
        READERS[reader](tmp_path)
    assert "\n" not in str(error.value)


def test_a_split_that_is_not_there_is_named(tmp_path: Path) -> None:
    replicas.ucf101(tmp_path / "u")
    with pytest.raises(InputError, match=r"trainlist02\.txt cannot be read"):
        read_ucf101(tmp_path / "u", 2)
    replicas.hmdb51(tmp_path / "h")
    with pytest.raises(InputError, match="no files of split 2: choose another one of 1"):
        read_hmdb51(tmp_path / "h", 2, unused=False)


FILES = [
    ("ucf101", "classInd.txt"),
    ("ucf101", "trainlist01.txt"),
    ("ucf101", "testlist01.txt"),
    ("hmdb51", "clap_test_split1.txt"),
    ("kinetics", "train.csv"),
]


@settings(max_examples=150, deadline=None)
@given(
    which=st.sampled_from(FILES),
    cut=st.integers(0, 400),
    flips=st.lists(st.tuples(st.integers(0, 399), st.integers(1, 255)), max_size=4),
    extra=st.binary(max_size=30),
)
def test_damaged_files_are_read_or_refused(
    which: tuple[str, str],
    cut: int,
    flips: list[tuple[int, int]],
    extra: bytes,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    reader, file = which
    folder = tmp_path_factory.getbasetemp() / f"damaged_{reader}"
    getattr(replicas, reader)(folder)
    data = bytearray((folder / file).read_bytes()[:cut] + extra)
    for place, mask in flips:
        if place < len(data):
            data[place] ^= mask
    (folder / file).write_bytes(data)
    found = attempt(READERS[reader], folder)
    if isinstance(found, str):
        assert str(folder) in found
    else:
        assert all(0 <= entry.label < len(found.class_names) for entry in [*found.train, *found.val])
