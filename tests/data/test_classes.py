"""The one reader of class files."""

import json

import pytest

from resnest_backbones.data import find_class_file, read_classes
from resnest_backbones.errors import DatasetError


@pytest.mark.fault("class files: comments, blank lines, CRLF, byte order marks, tables", "read alike by every tool")
def test_class_files_are_read(tmp_path):
    for text, names in (
        ("# names\n\n  a  \n\n# more\nb c, d\n", ("a", "b c, d")),
        ("\ufeffä\r\nb", ("ä", "b")),
        ("Idx\tRatio\tName\n1\t0.1\twall\n2\t0.2\tsea, water\n", ("wall", "sea, water")),
        ('Idx,Ratio,Name\n1,0.1,wall\n2,0.2,"sea, water"\n', ("wall", "sea, water")),
        ("one\ttab\nb\n", ("one\ttab", "b")),
        ('5" pipe\nC#\n', ('5" pipe', "C#")),
        ("Name\nb", ("Name", "b")),
    ):
        for encoding in ("utf-8", "utf-8-sig", "utf-16"):
            (tmp_path / "objectInfo150.txt").write_bytes(text.removeprefix("\ufeff").encode(encoding))
            assert read_classes(tmp_path / "objectInfo150.txt") == names
    assert find_class_file(tmp_path).name == "objectInfo150.txt"
    (tmp_path / "classes.txt").touch()
    assert find_class_file(tmp_path).name == "classes.txt"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# nothing\n", "must name 1 to 254 classes, got 0"),
        ("\n".join(map(str, range(255))).encode(), "must name 1 to 254 classes, got 255"),
        (b"a\nb\na\n", "must name distinct classes, a appear more than once"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        ("Bäume\n".encode("latin-1"), "is not UTF-8 text.*; save it as UTF-8"),
        (b"Idx\tName\n", "must name 1 to 254 classes, got 0"),
        (b"", "must name 1 to 254 classes, got 0"),
        (None, "cannot be read: No such file"),
    ],
)
@pytest.mark.fault("class files: empty, too long, other encodings, a name twice", "an error names the file")
def test_wrong_class_files_are_named(tmp_path, content, message):
    file = tmp_path / "c.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DatasetError, match=message) as raised:
        read_classes(file)
    assert str(file) in str(raised.value)


def test_names_come_from_a_coco_json_in_the_order_of_ids(tmp_path):
    file = tmp_path / "train.json"
    file.write_text(json.dumps({"categories": [{"id": 7, "name": "dog"}, {"id": 3.0, "name": "cat"}]}))
    assert read_classes(file) == ("cat", "dog")
    for categories, message in (
        ([], "has no categories"),
        ([{"id": 1}], "1 categories lack an integer id or a name: 1"),
        ([{"id": 1, "name": "x"}, {"id": 1, "name": "y"}], "category ids are not unique: 1"),
        (None, "no list of objects 'categories'"),
    ):
        file.write_text(json.dumps({"categories": categories}))
        with pytest.raises(DatasetError, match=message) as raised:
            read_classes(file)
        assert str(file) in str(raised.value)
