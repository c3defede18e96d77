import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from btxrd.data import read_annotation, read_table
from btxrd.data.audit import CHECKS, audit, exit_status, unusable_images
from btxrd.data.release import usable_table
from btxrd.data.table import REGION_COLUMNS, RELEASE_COLUMNS, SUBTYPE_COLUMNS, VIEW_COLUMNS

NO_SUBTYPE, NO_REGION, NO_VIEW = (
    dict.fromkeys(columns, 0) for columns in (SUBTYPE_COLUMNS, REGION_COLUMNS, VIEW_COLUMNS)
)


class Copy:
    """A small data set to damage: 8 normal, 8 benign and 8 malignant images."""

    def __init__(self, root: Path, frame: pd.DataFrame):
        self.root = root
        self.frame = frame
        self.row = {"normal": 0, "benign": 8, "malignant": 16}

    def image(self, name: str = "benign") -> Path:
        return self.root / "images" / self.frame["image_id"][self.row[name]]

    def annotation(self, name: str = "benign") -> Path:
        return self.root / "Annotations" / f"{self.image(name).stem}.json"

    def write_rows(self) -> None:
        self.frame.to_excel(self.root / "dataset.xlsx", index=False)

    def write_csv(self, change: Callable[[str], bytes] = str.encode) -> None:
        (self.root / "dataset.xlsx").unlink()
        (self.root / "dataset.csv").write_bytes(change(self.frame.to_csv(index=False)))


@pytest.fixture(scope="session")
def pristine(tmp_path_factory, phantom, table) -> Copy:
    root = tmp_path_factory.mktemp("audit") / "small"
    rows = pd.concat([table[table["label"] == label].head(8) for label in (0, 1, 2)])
    for folder in ("images", "Annotations"):
        (root / folder).mkdir(parents=True)
    pristine = Copy(root, rows[list(RELEASE_COLUMNS)].reset_index(drop=True).astype(object))
    pristine.write_rows()
    for path, label in zip(map(Path, rows["path"]), rows["label"], strict=True):
        shutil.copy(path, root / "images")
        if label:
            shutil.copy(phantom / "Annotations" / f"{path.stem}.json", root / "Annotations")
    return pristine


@pytest.fixture
def copy(tmp_path, pristine) -> Copy:
    root = shutil.copytree(pristine.root, tmp_path / "small")
    return Copy(root, pristine.frame.copy())


def damage(copy: Copy, target: str, change: Any) -> tuple[str, str | None]:
    """Change one thing of a data set; return the subject and image that its finding must name.

    `target` is a class, in whose first row the cells are overwritten; `frame` or `csv`, a new table
    made of the old; `image`, `annotation` or a path, to which something is done; or `normal's
    annotation`, which is written.
    """
    match target:
        case "normal" | "benign" | "malignant":
            row = copy.row[target]
            for column, cell in change.items():
                copy.frame.loc[row, column] = cell
            copy.write_rows()
            return f"dataset.xlsx row {row + 2}", copy.frame["image_id"][row]
        case "frame":
            copy.frame = change(copy.frame)
            copy.write_rows()
            return "dataset.xlsx", None
        case "csv":
            copy.write_csv(change)
            return "dataset.csv", None
        case "image":
            change(copy.image())
            return f"images/{copy.image().name}", copy.image().name
        case "annotation":
            change(copy.annotation())
            return f"Annotations/{copy.annotation().name}", copy.image().name
        case "normal's annotation":
            width, height = Image.open(copy.image("normal")).size
            content = {"imageWidth": width, "imageHeight": height} | change
            copy.annotation("normal").write_text(json.dumps(content))
            return f"Annotations/{copy.annotation('normal').name}", copy.image("normal").name
        case _:
            change(copy.root / target)
            return target, None


# --- what is done to a path ------------------------------------------------------------------


def edit(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(change(path.read_bytes()))


def write(data: bytes) -> Callable[[Path], object]:
    return edit(lambda _: data)


def append(tail: bytes) -> Callable[[Path], object]:
    return edit(lambda data: data + tail)


def cut(share: float) -> Callable[[Path], object]:
    return edit(lambda data: data[: round(len(data) * share)])


def cut_behind_a_thumbnail(data: bytes) -> bytes:
    thumbnail = b"\xff\xe1\x00\x20" + b"\xff\xda\xff\xd9".ljust(30, b".")
    return data[:2] + thumbnail + data[2 : len(data) // 2]


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_file(path: Path) -> None:
    shutil.rmtree(path)
    path.touch()


def dangle(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def save_as(file_format: str, mode: str) -> Callable[[Path], None]:
    return lambda path: Image.open(path).convert(mode).save(path, file_format)


def content(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Change the parsed JSON of an annotation."""

    def rewrite(path: Path) -> None:
        parsed = json.loads(path.read_text())
        change(parsed)
        path.write_text(json.dumps(parsed))

    return rewrite


def update(**values: object) -> Callable[[Path], None]:
    return content(lambda parsed: parsed.update(values))


def shape(kind: str, **values: object) -> Callable[[Path], None]:
    return content(lambda parsed: first(parsed, kind).update(values))


def first(parsed: dict, kind: str) -> dict:
    return next(shape for shape in parsed["shapes"] if shape["shape_type"] == kind)


def move(pixels: float) -> Callable[[Path], None]:
    """Give the rectangle a corner beyond the right edge of the image."""

    def move_corner(parsed: dict) -> None:
        first(parsed, "rectangle")["points"][1][0] = parsed["imageWidth"] + pixels

    return content(move_corner)


def flatten(parsed: dict) -> None:
    parsed["shapes"] = [first(parsed, "rectangle") | {"points": [[5, 5], [5, 9]]}]


def widen(parsed: dict) -> None:
    parsed["imageWidth"] += 1


GARBAGE = bytes(range(256)) * 20

INVALID = [
    content(lambda parsed: parsed.pop("shapes")),
    content(lambda parsed: parsed.pop("imageWidth")),
    update(imageHeight="tall"),
    update(imageHeight=0),
    update(shapes={"a": 1}),
    update(shapes=[None]),
    shape("polygon", points=None),
    shape("polygon", points=[[1, 2], [3], [4, 5]]),
    shape("polygon", points=[[1, 2], ["x", 3], [4, 5]]),
    shape("polygon", points=[[1, 2], [math.nan, 3], [4, 5]]),
    shape("polygon", points=[[1, 2], [10**400, 3], [4, 5]]),
    shape("polygon", points=[[[1], [2]], [[1], [3]]]),
    shape("polygon", label=None),
    shape("polygon", label="\ud800"),
    shape("polygon", shape_type="circle"),
    shape("polygon", points=[[1, 2], [3, 4]]),
    shape("polygon", points=[]),
    shape("rectangle", points=[[1, 2]]),
    shape("polygon", points=[[5, 5], [9, 9], [7, 7]]),
    move(2.5),
    write(b""),
    write(GARBAGE),
    cut(0.5),
    make_folder,
    write(b"[" * 100_000),
    write(b'{"imageWidth": ' + b"9" * 5000 + b"}"),
    write(b"[1, 2]"),
]
"""Changes after which a file is no annotation."""

CASES = [
    # a row
    ("cell", "benign", {"age": None}),
    ("cell", "normal", {"gender": None, "frontal": None}),
    ("cell", "benign", {"age": "forty"}),
    ("cell", "benign", {"femur": "yes"}),
    ("cell", "benign", {"femur": "=1+0"}),
    ("cell", "benign", {"center": "1"}),
    ("cell", "normal", {"image_id": "../../secret.jpeg"}),
    ("cell", "normal", {"image_id": "IMG009999.png"}),
    ("cell", "benign", {"center": 4}),
    ("cell", "benign", {"center": 1.5}),
    ("cell", "malignant", {"age": 130}),
    ("cell", "malignant", {"age": -1}),
    ("cell", "benign", {"gender": "female"}),
    ("cell", "benign", {"tumor": 2}),
    ("class", "benign", {"malignant": 1}),
    ("class", "benign", {"benign": 0}),
    ("class", "normal", {"malignant": 1}),
    ("subtype-without-tumor", "normal", {"osteosarcoma": 1}),
    ("subtype-against-class", "benign", NO_SUBTYPE | {"other mt": 1}),
    ("subtype-against-class", "malignant", NO_SUBTYPE | {"osteofibroma": 1}),
    ("subtype-count", "benign", NO_SUBTYPE),
    ("subtype-count", "benign", {"osteofibroma": 1, "giant cell tumor": 1}),
    ("region-count", "benign", NO_REGION),
    ("region-count", "benign", dict.fromkeys(NO_REGION, 1)),
    ("region-against-site", "benign", NO_REGION | {"femur": 1, "upper limb": 1}),
    ("region-against-site", "benign", NO_REGION | {"hand": 1, "pelvis": 1}),
    ("view-count", "benign", NO_VIEW),
    ("view-count", "benign", {"frontal": 1, "oblique": 1}),
    # an image
    ("image-missing", "image", Path.unlink),
    ("image-unreadable", "image", write(b"")),
    ("image-unreadable", "image", write(GARBAGE)),
    ("image-unreadable", "image", write(b"<html>404</html>")),
    ("image-unreadable", "image", edit(lambda data: data[:20])),
    ("image-unreadable", "image", make_folder),
    ("image-unreadable", "image", dangle),
    ("image-not-jpeg", "image", save_as("PNG", "L")),
    ("image-truncated", "image", cut(0.9)),
    ("image-truncated", "image", cut(0.3)),
    ("image-truncated", "image", edit(lambda data: data[:-2])),
    ("image-truncated", "image", edit(lambda data: data[: len(data) // 2] + bytes(9000))),
    ("image-truncated", "image", edit(cut_behind_a_thumbnail)),
    ("image-mode", "image", save_as("JPEG", "CMYK")),
    # an annotation
    *(("annotation-invalid", "annotation", change) for change in INVALID),
    ("annotation-missing", "annotation", Path.unlink),
    ("annotation-size", "annotation", content(widen)),
    ("annotation-of-normal", "normal's annotation", {"shapes": []}),
    ("annotation-empty", "annotation", update(shapes=[])),
    ("annotation-empty", "annotation", content(flatten)),
    # the table
    ("table-missing", "dataset.xlsx", Path.unlink),
    ("table-missing", "dataset.xlsx", make_folder),
    ("table-unreadable", "dataset.xlsx", write(GARBAGE)),
    ("table-unreadable", "dataset.xlsx", write(b"")),
    ("table-unreadable", "dataset.xlsx", cut(0.5)),
    ("table-unreadable", "dataset.xlsx", write(b"a,b\n1,2")),
    ("table-unreadable", "csv", lambda _: b""),
    ("table-unreadable", "csv", lambda _: b"a,b\n\xff\xfe\x00,2\n"),
    ("table-unreadable", "csv", lambda _: b"a,b\n1,2,3\n1,2,3,4,5\n"),
    ("table-unreadable", "csv", lambda good: good.replace("\nIMG", "\nx,IMG").encode()),
    ("table-unreadable", "csv", lambda good: good.encode("utf-16")),
    ("table-unreadable", "csv", lambda good: good.replace(",", ";").encode()),
    ("table-empty", "frame", lambda frame: frame.head(0)),
    ("column-missing", "frame", lambda frame: frame.drop(columns="age")),
    ("column-missing", "frame", lambda frame: frame.drop(columns="image_id")),
    ("column-missing", "frame", lambda frame: frame[["image_id", "center"]]),
    # the folder
    ("images-folder-missing", "images", shutil.rmtree),
    ("images-folder-missing", "images", make_file),
    ("annotations-folder-missing", "Annotations", shutil.rmtree),
]
WARNINGS = {
    *("annotations-folder-missing", "annotation-missing", "annotation-of-normal"),
    *("annotation-empty", "region-against-site", "image-mode"),
    *("subtype-count", "region-count", "view-count"),
}
WHOLE_TABLE = {"table-missing", "table-unreadable", "table-empty", "column-missing"}


@pytest.mark.parametrize(("check", "target", "change"), CASES)
def test_a_damage_is_found_and_what_it_hurts_is_not_read(copy, check, target, change):
    subject, image_id = damage(copy, target, change)
    findings = audit(copy.root)
    hits = findings[(findings["check"] == check) & (findings["subject"] == subject)]
    assert hits["image_id"].tolist() == [image_id], findings[["check", "subject"]].to_string()
    for text in (*findings["what"], *findings["remedy"]):
        assert text.endswith(".")
    is_error = check not in WARNINGS
    assert hits["severity"].tolist() == ["error" if is_error else "warning"]
    assert exit_status(findings) == (2 if is_error else 1)
    hurt = {image_id} if is_error and image_id else set()
    assert unusable_images(findings) == hurt

    if check in WHOLE_TABLE:
        with pytest.raises((ValueError, FileNotFoundError), match=subject) as refused:
            usable_table(copy.root, copy.root.parent / "cache")
        assert str(copy.root) in str(refused.value)
        return
    if check == "cell":
        with pytest.raises(ValueError, match=subject):
            read_table(copy.root)
    if check == "annotation-invalid":
        with pytest.raises((ValueError, IsADirectoryError), match=copy.annotation().name):
            read_annotation(copy.annotation())
    table = read_table(copy.root, set_aside=hurt)
    assert set(table["image_id"]) == set(copy.frame["image_id"]) - hurt


def test_every_check_is_tried():
    """Below too, in test_release.py what only decoding finds, in test_release_files.py bytes."""
    tried = {check for check, *_ in CASES}
    elsewhere = {"id-duplicate", "image-undecodable", "image-altered"}
    assert tried | elsewhere == set(CHECKS)


def test_every_fault_of_a_row_and_of_an_annotation_is_collected(copy):
    damage(copy, "benign", {"age": 130, "center": None, "femur": "yes"})
    shapes = [
        {"label": "x", "shape_type": kind, "points": [[1, 1]] * points}
        for kind, points in (("polygon", 0), ("circle", 2), ("rectangle", 1))
    ]
    update(imageWidth=-1, shapes=shapes)(copy.annotation())
    findings = audit(copy.root).set_index("check")["what"]
    for fact in ("center is empty", "age is 130", "0 to 120", "femur is 'yes'", "0 or 1"):
        assert fact in findings["cell"]
    for fact in (
        *("imageWidth", "greater than 0; it is -1", "shapes.0: a polygon of 0 points"),
        *("shapes.1", "'circle'", "shapes.2: a rectangle of 1 points"),
    ):
        assert fact in findings["annotation-invalid"]


@pytest.mark.parametrize("suffix", [".jpeg", ".jpg"])
def test_an_id_that_comes_twice_names_both_rows(copy, suffix):
    copy.frame.loc[5, "image_id"] = f"{copy.image().stem}{suffix}"
    copy.write_rows()
    findings = audit(copy.root)
    twice = findings[findings["check"] == "id-duplicate"]
    assert twice["subject"].tolist() == ["dataset.xlsx row 7", "dataset.xlsx row 10"]
    assert twice["what"].str.endswith(f"{copy.image().stem} stands in rows 7, 10.").all()
    assert set(twice["severity"]) == {"error"}
    assert unusable_images(findings) == set(copy.frame["image_id"][[5, 8]])


def test_an_empty_row_is_an_error_without_image(copy):
    copy.frame.loc[5] = None
    copy.write_rows()
    findings = audit(copy.root)
    errors = findings[findings["severity"] == "error"]
    assert errors["subject"].tolist() == ["dataset.xlsx row 7"]
    assert errors["what"].str.contains("image_id is empty, .* and 31 more").all()
    assert exit_status(findings) == 2
    assert unusable_images(findings) == set()


def add_files(root: Path) -> None:
    for name in ("images/IMG009999.jpeg", "images/Thumbs.db", "Annotations/IMG009999.json"):
        (root / name).touch()


def lay_sideways(path: Path) -> None:
    """Turn what is stored; EXIF says how to show it as before."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.open(path).transpose(Image.Transpose.ROTATE_90)
    turned.save(path, "JPEG", exif=exif)


HARMLESS = [
    *(("image", append(tail)) for tail in (bytes(10), bytes(9000), b"tail", b"tail" * 9000)),
    ("image", lay_sideways),
    ("image", lambda path: path.rename(path.with_suffix(".jpg"))),
    ("annotation", move(1.5)),
    ("annotation", edit(lambda data: b"\xef\xbb\xbf" + data)),
    ("frame", lambda frame: frame.assign(name="x")),
    (".", add_files),
]


@pytest.mark.parametrize(("target", "change"), HARMLESS)
def test_what_is_read_all_the_same_and_what_no_row_names_is_no_finding(copy, target, change):
    damage(copy, target, change)
    assert audit(copy.root).empty
    assert read_annotation(copy.annotation()).lesions()


# --- what is not damaged, and the whole ------------------------------------------------------


def test_an_undamaged_data_set_is_clean(copy, phantom):
    for root in (copy.root, phantom):
        findings = audit(root)
        assert findings.empty
        assert list(findings) == ["severity", "subject", "image_id", "check", "what", "remedy"]
        assert exit_status(findings) == 0
        assert unusable_images(findings) == set()


def test_errors_come_first_and_rows_in_their_order(copy):
    for row in (3, 9, 10):
        copy.frame.loc[row, "age"] = 999
    copy.frame.loc[8, list(NO_VIEW)] = 0
    copy.write_rows()
    copy.image("malignant").unlink()
    findings = audit(copy.root, progress=True)
    rows = [f"dataset.xlsx row {row}" for row in (5, 11, 12)]
    image = f"images/{copy.image('malignant').name}"
    assert findings["subject"].tolist() == [*rows, image, "dataset.xlsx row 10"]
    assert unusable_images(findings) == {copy.image("malignant").name} | set(
        copy.frame["image_id"][[3, 9, 10]]
    )


def test_rows_of_a_csv_are_counted_as_in_its_file(copy):
    copy.frame.loc[5, "age"] = "old"
    copy.write_csv(lambda good: (good.replace("\n", "\n\n", 1) + "\n\n").encode())
    findings = audit(copy.root)
    assert findings["subject"].tolist() == ["dataset.csv row 8"]
    assert "age is 'old', not a number" in findings["what"][0]


@pytest.mark.parametrize("column", ["femur", "center", "age"])
def test_a_formula_in_a_csv_sets_aside_its_row_only(copy, column):
    pristine = read_table(copy.root)
    copy.frame.loc[5, column] = "=1+0"
    copy.write_csv()
    bad = unusable_images(audit(copy.root))
    assert bad == {copy.frame["image_id"][5]}
    table = read_table(copy.root, set_aside=bad)
    assert table[list(RELEASE_COLUMNS)].equals(
        pristine[list(RELEASE_COLUMNS)].drop(index=5).reset_index(drop=True)
    )


def test_without_a_table_the_files_are_still_checked(copy):
    (copy.root / "dataset.xlsx").unlink()
    cut(0.5)(copy.image())
    copy.annotation("malignant").write_text("{}")
    checks = ["annotation-invalid", "table-missing", "image-truncated"]
    assert audit(copy.root)["check"].tolist() == checks


def test_no_such_folder_is_named_and_a_file_in_its_place_is_a_finding(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        audit(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    assert exit_status(audit(tmp_path / "file")) == 2


def test_the_real_sample_is_clean(real_sample):
    assert audit(real_sample).empty


def test_the_real_table_has_the_known_contradictions_only(real_table):
    findings = audit(real_table)
    assert findings["check"].value_counts().to_dict() == {
        "region-against-site": 21,
        "images-folder-missing": 1,
        "annotations-folder-missing": 1,
        "subtype-count": 1,
    }
    assert findings["check"][findings["severity"] == "error"].tolist() == ["images-folder-missing"]
    several = findings[findings["check"] == "subtype-count"]
    assert several["image_id"].tolist() == ["IMG001276.jpeg"]
    assert unusable_images(findings) == set()
