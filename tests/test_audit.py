import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from btxrd.data.audit import CHECKS, audit, exit_status, unusable_images
from btxrd.data.table import RELEASE_COLUMNS, SUBTYPE_COLUMNS

NO_SUBTYPE = dict.fromkeys(SUBTYPE_COLUMNS, 0)
NO_REGION = {"upper limb": 0, "lower limb": 0, "pelvis": 0}
NO_VIEW = {"frontal": 0, "lateral": 0, "oblique": 0}


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


def expect(root: Path, check: str, subject: str, image_id: str | None) -> None:
    findings = audit(root)
    hits = findings[(findings["check"] == check) & (findings["subject"] == subject)]
    assert len(hits) >= 1, findings[["check", "subject"]].to_string()
    assert hits["image_id"].tolist()[0] == image_id
    for text in (*findings["what"], *findings["remedy"]):
        assert text
        assert text.endswith(".")
    severity = "error" if check in ERRORS else "warning"
    assert set(hits["severity"]) == {severity}
    assert exit_status(findings) == (2 if severity == "error" else 1)
    hurt = {image_id} if severity == "error" and image_id else set()
    assert unusable_images(findings) == hurt


# --- rows: the check, the kind of row, the cells that are overwritten ------------------------

CELLS = [
    ("cell-missing", "benign", {"age": None}),
    ("cell-missing", "normal", {"gender": None, "frontal": None}),
    ("cell-type", "benign", {"age": "forty"}),
    ("cell-type", "benign", {"femur": "yes"}),
    ("cell-type", "benign", {"center": "1"}),
    ("id-malformed", "normal", {"image_id": "../../secret.jpeg"}),
    ("id-malformed", "normal", {"image_id": "IMG009999.png"}),
    ("center-range", "benign", {"center": 4}),
    ("center-range", "benign", {"center": 1.5}),
    ("age-range", "malignant", {"age": 130}),
    ("age-range", "malignant", {"age": -1}),
    ("gender-value", "benign", {"gender": "female"}),
    ("flag-value", "benign", {"tumor": 2}),
    ("class-both", "benign", {"malignant": 1}),
    ("class-neither", "benign", {"benign": 0}),
    ("class-without-tumor", "normal", {"malignant": 1}),
    ("subtype-without-tumor", "normal", {"osteosarcoma": 1}),
    ("subtype-against-class", "benign", NO_SUBTYPE | {"other mt": 1}),
    ("subtype-against-class", "malignant", NO_SUBTYPE | {"osteofibroma": 1}),
    ("subtype-missing", "benign", NO_SUBTYPE),
    ("subtype-several", "benign", {"osteofibroma": 1, "giant cell tumor": 1}),
    ("region-missing", "benign", NO_REGION),
    ("region-several", "benign", dict.fromkeys(NO_REGION, 1)),
    ("region-against-site", "benign", NO_REGION | {"femur": 1, "upper limb": 1}),
    ("region-against-site", "benign", NO_REGION | {"hand": 1, "pelvis": 1}),
    ("site-of-normal", "normal", NO_REGION | {"tibia": 1, "lower limb": 1}),
    ("view-missing", "benign", NO_VIEW),
    ("view-several", "benign", {"frontal": 1, "oblique": 1}),
]


@pytest.mark.parametrize(("check", "name", "cells"), CELLS)
def test_a_damaged_row(copy, check, name, cells):
    row = copy.row[name]
    for column, cell in cells.items():
        copy.frame.loc[row, column] = cell
    copy.write_rows()
    image_id = copy.frame["image_id"][row]
    expect(copy.root, check, f"dataset.xlsx row {row + 2}", image_id)


# --- images: the check, the damage, the name that the finding bears --------------------------


def cut(share: float) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[: round(path.stat().st_size * share)])


def cut_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def cut_and_fill_with_zeros(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2].ljust(len(data) + 9000, b"\0"))


def cut_behind_a_thumbnail(path: Path) -> None:
    data = path.read_bytes()
    thumbnail = b"\xff\xe1\x00\x20" + b"\xff\xda\xff\xd9".ljust(30, b".")
    path.write_bytes(data[:2] + thumbnail + data[2 : len(data) // 2])


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def dangle(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def append_bytes(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"trailing")


def rename_extension(path: Path) -> None:
    path.rename(path.with_suffix(".jpg"))


def save_as(file_format: str, mode: str) -> Callable[[Path], None]:
    return lambda path: Image.open(path).convert(mode).save(path, file_format)


def garbage(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 20)


IMAGES = [
    ("image-missing", Path.unlink, ".jpeg"),
    ("image-empty", lambda path: path.write_bytes(b""), ".jpeg"),
    ("image-unreadable", garbage, ".jpeg"),
    ("image-unreadable", lambda path: path.write_text("<html>404</html>"), ".jpeg"),
    ("image-unreadable", lambda path: path.write_bytes(path.read_bytes()[:20]), ".jpeg"),
    ("image-unreadable", make_folder, ".jpeg"),
    ("image-unreadable", dangle, ".jpeg"),
    ("image-not-jpeg", save_as("PNG", "L"), ".jpeg"),
    ("image-truncated", cut(0.9), ".jpeg"),
    ("image-truncated", cut(0.3), ".jpeg"),
    ("image-truncated", cut_the_end, ".jpeg"),
    ("image-truncated", cut_and_fill_with_zeros, ".jpeg"),
    ("image-truncated", cut_behind_a_thumbnail, ".jpeg"),
    ("image-trailing-bytes", append_bytes, ".jpeg"),
    ("image-mode", save_as("JPEG", "CMYK"), ".jpeg"),
    ("image-extension", rename_extension, ".jpg"),
]


@pytest.mark.parametrize(("check", "damage", "suffix"), IMAGES)
def test_a_damaged_image(copy, check, damage, suffix):
    path = copy.image()
    damage(path)
    expect(copy.root, check, f"images/{path.stem}{suffix}", path.name)


def test_zeros_behind_an_image_are_padding(copy):
    for zeros in (10, 9000):
        copy.image().write_bytes(copy.image().read_bytes() + bytes(zeros))
        assert audit(copy.root).empty


def test_a_sideways_image_has_the_size_that_is_shown(copy):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(copy.image())
    image.transpose(Image.Transpose.ROTATE_90).save(copy.image(), "JPEG", exif=exif)
    assert audit(copy.root).empty


# --- annotations: the check, the damage to the parsed JSON -----------------------------------


def change(**values: object) -> Callable[[dict], None]:
    return lambda content: content.update(values)


def change_shape(kind: str, **values: object) -> Callable[[dict], None]:
    return lambda content: _shape(content, kind).update(values)


def _shape(content: dict, kind: str) -> dict:
    return next(shape for shape in content["shapes"] if shape["shape_type"] == kind)


def move(pixels: float) -> Callable[[dict], None]:
    def damage(content: dict) -> None:
        _shape(content, "rectangle")["points"][1][0] = content["imageWidth"] + pixels

    return damage


def drop(kind: str) -> Callable[[dict], None]:
    return lambda content: content["shapes"].remove(_shape(content, kind))


CONTENTS = [
    ("annotation-layout", lambda content: content.pop("shapes")),
    ("annotation-layout", lambda content: content.pop("imageWidth")),
    ("annotation-layout", change(imageHeight="tall")),
    ("annotation-layout", change(shapes={"a": 1})),
    ("annotation-layout", change(shapes=[None])),
    ("annotation-layout", change_shape("polygon", points=None)),
    ("annotation-layout", change_shape("polygon", points=[[1, 2], [3], [4, 5]])),
    ("annotation-layout", change_shape("polygon", points=[[1, 2], ["x", 3], [4, 5]])),
    ("annotation-layout", change_shape("polygon", points=[[1, 2], [float("nan"), 3], [4, 5]])),
    ("annotation-layout", change_shape("polygon", points=[[1, 2], [10**400, 3], [4, 5]])),
    ("annotation-layout", change_shape("polygon", points=[[[1], [2]], [[1], [3]]])),
    ("annotation-layout", change_shape("polygon", label=None)),
    ("annotation-size", lambda content: content.update(imageWidth=content["imageWidth"] + 1)),
    ("shape-type", change_shape("polygon", shape_type="circle")),
    ("polygon-points", change_shape("polygon", points=[[1, 2], [3, 4]])),
    ("polygon-points", change_shape("polygon", points=[])),
    ("rectangle-points", change_shape("rectangle", points=[[1, 2]])),
    ("polygon-area", change_shape("polygon", points=[[5, 5], [9, 9], [7, 7]])),
    ("rectangle-area", change_shape("rectangle", points=[[5, 5], [5, 9]])),
    ("point-outside", move(2.5)),
    ("point-over-edge", move(1.5)),
    ("annotation-empty", change(shapes=[])),
    ("label-against-subtype", change_shape("rectangle", label="osteosarcoma")),
    ("label-against-subtype", change_shape("polygon", label="\ud800")),
    ("rectangle-without-polygon", drop("polygon")),
    ("polygon-without-rectangle", drop("rectangle")),
]


@pytest.mark.parametrize(("check", "damage"), CONTENTS)
def test_a_damaged_annotation(copy, check, damage):
    path = copy.annotation()
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    expect(copy.root, check, f"Annotations/{path.name}", copy.image().name)


ANNOTATIONS = [
    ("annotation-unreadable", lambda path: path.write_bytes(b"")),
    ("annotation-unreadable", garbage),
    ("annotation-unreadable", cut(0.5)),
    ("annotation-unreadable", make_folder),
    ("annotation-unreadable", lambda path: path.write_text("[" * 100_000)),
    ("annotation-unreadable", lambda path: path.write_text('{"imageWidth": ' + "9" * 5000 + "}")),
    ("annotation-layout", lambda path: path.write_text("[1, 2]")),
    ("annotation-missing", Path.unlink),
]


@pytest.mark.parametrize(("check", "damage"), ANNOTATIONS)
def test_a_damaged_annotation_file(copy, check, damage):
    damage(copy.annotation())
    expect(copy.root, check, f"Annotations/{copy.annotation().name}", copy.image().name)


# --- the folder: the check, the damage, the finding's subject --------------------------------


def drop_columns(*columns: str) -> Callable[[Copy], None]:
    def damage(copy: Copy) -> None:
        copy.frame = copy.frame.drop(columns=list(columns))
        copy.write_rows()

    return damage


def add_column(copy: Copy) -> None:
    copy.frame["name"] = "x"
    copy.write_rows()


def no_rows(copy: Copy) -> None:
    copy.frame = copy.frame.head(0)
    copy.write_rows()


def to_table(damage: Callable[[Path], object]) -> Callable[[Copy], None]:
    return lambda copy: damage(copy.root / "dataset.xlsx")


def csv(content: bytes) -> Callable[[Copy], None]:
    def damage(copy: Copy) -> None:
        (copy.root / "dataset.xlsx").unlink()
        (copy.root / "dataset.csv").write_bytes(content)

    return damage


def remove(folder: str) -> Callable[[Copy], None]:
    return lambda copy: shutil.rmtree(copy.root / folder)


def file_for_folder(copy: Copy) -> None:
    shutil.rmtree(copy.root / "images")
    (copy.root / "images").touch()


def add(name: str) -> Callable[[Copy], None]:
    return lambda copy: (copy.root / name).write_text("{}")


def nest(copy: Copy) -> None:
    folder = copy.root / "Annotations"
    shutil.copytree(folder, folder / "Annotations")


FOLDERS = [
    ("table-missing", to_table(Path.unlink), "dataset.xlsx"),
    ("table-missing", to_table(make_folder), "dataset.xlsx"),
    ("table-unreadable", to_table(garbage), "dataset.xlsx"),
    ("table-unreadable", to_table(lambda path: path.write_bytes(b"")), "dataset.xlsx"),
    ("table-unreadable", to_table(cut(0.5)), "dataset.xlsx"),
    ("table-unreadable", to_table(lambda path: path.write_text("a,b\n1,2")), "dataset.xlsx"),
    ("table-unreadable", csv(b""), "dataset.csv"),
    ("table-unreadable", csv(b"a,b\n\xff\xfe\x00,2\n"), "dataset.csv"),
    ("table-unreadable", csv(b"a,b\n1,2,3\n1,2,3,4,5\n"), "dataset.csv"),
    ("table-empty", no_rows, "dataset.xlsx"),
    ("column-missing", drop_columns("age"), "dataset.xlsx column age"),
    ("column-missing", drop_columns("image_id"), "dataset.xlsx column image_id"),
    ("column-missing", drop_columns(*RELEASE_COLUMNS[2:]), "dataset.xlsx column tumor"),
    ("column-unknown", add_column, "dataset.xlsx column name"),
    ("images-folder-missing", remove("images"), "images"),
    ("images-folder-missing", file_for_folder, "images"),
    ("annotations-folder-missing", remove("Annotations"), "Annotations"),
    ("image-without-row", add("images/IMG009999.jpeg"), "images/IMG009999.jpeg"),
    ("annotation-without-row", add("Annotations/IMG009999.json"), "Annotations/IMG009999.json"),
    ("stray-file", add("~$dataset.xlsx"), "~$dataset.xlsx"),
    ("stray-file", add("images/Thumbs.db"), "images/Thumbs.db"),
    ("stray-file", nest, "Annotations/Annotations"),
]


@pytest.mark.parametrize(("check", "damage", "subject"), FOLDERS)
def test_a_damaged_folder(copy, check, damage, subject):
    damage(copy)
    expect(copy.root, check, subject, None)


def test_an_annotation_of_a_normal(copy):
    shutil.copy(copy.annotation("benign"), copy.annotation("normal"))
    size = Image.open(copy.image("normal")).size
    content = json.loads(copy.annotation("normal").read_text())
    content |= {"imageWidth": size[0], "imageHeight": size[1]}
    content["shapes"] = []
    copy.annotation("normal").write_text(json.dumps(content))
    file = f"Annotations/{copy.annotation('normal').name}"
    expect(copy.root, "annotation-of-normal", file, copy.image("normal").name)


@pytest.mark.parametrize("suffix", [".jpeg", ".jpg"])
def test_an_id_that_comes_twice_names_both_rows(copy, suffix):
    copy.frame.loc[5, "image_id"] = f"{copy.image().stem}{suffix}"
    copy.write_rows()
    findings = audit(copy.root)
    twice = findings[findings["check"] == "id-duplicate"]
    assert twice["subject"].tolist() == ["dataset.xlsx row 7", "dataset.xlsx row 10"]
    assert set(twice["what"]) == {f"{copy.image().stem} stands in rows 7, 10."}
    assert set(twice["severity"]) == {"error"}
    assert unusable_images(findings) == set(copy.frame["image_id"][[5, 8]])


def test_an_empty_row_is_an_error_without_image(copy):
    copy.frame.loc[5] = None
    copy.write_rows()
    findings = audit(copy.root)
    errors = findings[findings["severity"] == "error"]
    assert errors["subject"].tolist() == ["dataset.xlsx row 7"]
    assert errors["what"].str.match("image_id, center, age, .* and 31 more is empty").all()
    assert exit_status(findings) == 2
    assert unusable_images(findings) == set()


# --- what is not damaged, and the whole ------------------------------------------------------

ERRORS = {
    "age-range", "annotation-layout", "annotation-size", "annotation-unreadable", "cell-missing",
    "cell-type", "center-range", "class-both", "class-neither", "class-without-tumor",
    "column-missing", "flag-value", "gender-value", "id-duplicate", "id-malformed", "image-empty",
    "image-missing", "image-not-jpeg", "image-truncated", "image-unreadable",
    "images-folder-missing", "point-outside", "polygon-area", "polygon-points",
    "rectangle-points", "shape-type", "subtype-against-class", "subtype-without-tumor",
    "table-empty", "table-missing", "table-unreadable",
}  # fmt: skip


def test_every_check_is_tried_above():
    tried = {case[0] for case in (*CELLS, *IMAGES, *CONTENTS, *ANNOTATIONS, *FOLDERS)}
    assert tried | {"annotation-of-normal", "id-duplicate"} == set(CHECKS)


def test_an_undamaged_data_set_is_clean(copy, phantom):
    for root in (copy.root, phantom):
        findings = audit(root)
        assert findings.empty
        assert list(findings) == ["severity", "subject", "image_id", "check", "what", "remedy"]
        assert exit_status(findings) == 0
        assert unusable_images(findings) == set()


def test_the_archive_may_be_wrapped_in_its_folder(tmp_path, copy):
    shutil.move(copy.root, tmp_path / "outer" / "BTXRD")
    assert audit(tmp_path / "outer").empty


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
    (copy.root / "dataset.xlsx").unlink()
    header, *lines = copy.frame.to_csv(index=False).splitlines()
    (copy.root / "dataset.csv").write_text("\n".join([header, "", *lines, "", ""]))
    findings = audit(copy.root)
    assert findings["subject"].tolist() == ["dataset.csv row 8"]
    assert findings["what"].tolist() == ["age is 'old', not a number."]


def test_without_a_table_the_files_are_still_checked(copy):
    (copy.root / "dataset.xlsx").unlink()
    cut(0.5)(copy.image())
    copy.annotation("malignant").write_text("{}")
    checks = ["annotation-layout", "table-missing", "image-truncated"]
    assert audit(copy.root)["check"].tolist() == checks


def test_no_such_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        audit(tmp_path / "nowhere")


def test_a_file_in_place_of_the_folder_is_a_finding(tmp_path):
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
        "subtype-several": 1,
    }
    assert findings["check"][findings["severity"] == "error"].tolist() == ["images-folder-missing"]
    several = findings[findings["check"] == "subtype-several"]
    assert several["image_id"].tolist() == ["IMG001276.jpeg"]
    assert unusable_images(findings) == set()
