"""What an upload is: its kind, compression and encoding, and what is refused."""

import codecs
import gzip
import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest
import zstandard

from trainer_core.errors import DataError, EmptyFile, UnknownFormat
from trainer_core.rows import FileFormat, Limits, sniff

JSONL = '{"text": "a", "label": 1}\n{"text": "b", "label": 2}\n'
CSV = "text,label\na,1\nb,2\n"


def sniffed(
    folder: Path, content: bytes | str, *, name: str, limits: Limits | None = None
) -> FileFormat:
    path = folder / "upload"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return sniff(path, name=name, limits=limits or Limits())


@pytest.mark.parametrize(
    ("content", "name", "kind", "delimiter"),
    [
        (JSONL, "a.jsonl", "jsonl", None),
        (JSONL, "a.json", "jsonl", None),
        (JSONL, "a", "jsonl", None),
        (JSONL.replace("\n", "\r\n"), "a.ndjson", "jsonl", None),
        ('{"text": "one row"}', "a.json", "jsonl", None),
        ('{"messages": [{"role": "user", "content": "hi"}]}', "a.json", "jsonl", None),
        ('{"messages": [{"role": "user", "content": "hi"}]}', "a.jsonl", "jsonl", None),
        ("{'text': 'python'}\n{'text': 'notation'}\n", "a.jsonl", "jsonl", None),
        ('"text": "a", "n": 1}\n' + JSONL, "a.jsonl", "jsonl", None),
        ('[{"text": "a"}]', "a.json", "json", None),
        ('  [\n  {\n    "text": "a"\n  }\n]', "a.json", "json", None),
        ("[]", "a.json", "json", None),
        ('{"data": [{"text": "a"}]}', "a.json", "json", None),
        ('{\n  "data": [\n    {"text": "a"},\n    {"text": "b"}\n  ]\n}', "a.json", "json", None),
        (CSV, "a.csv", "csv", ","),
        (CSV, "a", "csv", ","),
        (CSV.replace(",", ";"), "a.csv", "csv", ";"),
        (CSV.replace(",", "|"), "a.csv", "csv", "|"),
        ("text;score\r\nfoo, bar;1,5\r\nbaz, bat;2,5\r\n", "a.csv", "csv", ";"),
        ("sep=;\r\ntext\r\na, b\r\nc\r\n", "a.csv", "csv", ";"),
        ("text\nHello, world\n", "a.csv", "csv", ","),
        ('text,label\n"a;b\nc;d",1\n"e;f",2\n', "a.csv", "csv", ","),
        (CSV.replace(",", "\t"), "a.tsv", "tsv", "\t"),
        (CSV.replace(",", "\t"), "a.csv", "tsv", "\t"),
        (CSV.replace(",", "\t"), "a.txt", "tsv", "\t"),
        (CSV.replace("\n", "\r"), "a.csv", "csv", ","),
        ("Hello, world\nBye, world\n", "a.txt", "text", None),
        ("[INST] hello [/INST]\n", "a.txt", "text", None),
        ("{name} is here\nand there\n", "a.txt", "text", None),
        ("just some words\nand more\n", "a", "text", None),
    ],
)
def test_kind_is_read_from_the_content_first(
    tmp_path: Path, content: str, name: str, kind: str, delimiter: str | None
) -> None:
    found = sniffed(tmp_path, content, name=name)

    assert (found.kind, found.delimiter) == (kind, delimiter)


def test_a_name_that_contradicts_the_content_is_said(tmp_path: Path) -> None:
    found = sniffed(tmp_path, JSONL, name="rows.csv")

    assert found.kind == "jsonl"
    assert ".csv" in found.notes[0]
    assert "JSON" in found.notes[0]


def test_compression_is_read_from_the_content(tmp_path: Path) -> None:
    assert sniffed(tmp_path, gzip.compress(CSV.encode()), name="a.csv.gz") == FileFormat(
        "csv", "gzip", "utf-8", ","
    )
    assert sniffed(tmp_path, zstandard.compress(CSV.encode()), name="a.csv.zst") == FileFormat(
        "csv", "zstd", "utf-8", ","
    )
    plain = sniffed(tmp_path, CSV, name="a.csv.gz")
    assert plain.compression == "none"
    assert ".gz" in plain.notes[0]


@pytest.mark.parametrize(
    ("content", "encoding", "note"),
    [
        (CSV.encode(), "utf-8", None),
        (CSV.replace("a", "é").encode(), "utf-8", None),
        (CSV.encode("utf-8-sig"), "utf-8-sig", "byte order mark"),
        (CSV.encode("utf-16"), "utf-16", "UTF-16"),
        (codecs.BOM_UTF16_BE + CSV.encode("utf-16-be"), "utf-16", "UTF-16"),
        (CSV.encode("utf-16-le"), "utf-16-le", "UTF-16-LE"),
        (CSV.encode("utf-16-be"), "utf-16-be", "UTF-16-BE"),
        (CSV.replace("a", "é").encode("latin-1"), "latin-1", "byte 0xE9 at offset"),
        (CSV.replace("a", "“é”").encode("cp1252"), "cp1252", "Windows-1252"),
    ],
)
def test_encoding_is_found_and_said(
    tmp_path: Path, content: bytes, encoding: str, note: str | None
) -> None:
    found = sniffed(tmp_path, content, name="a.csv")

    assert (found.kind, found.encoding) == ("csv", encoding)
    assert bool(found.notes) == bool(note)
    assert note is None or note in found.notes[0]


def test_an_accent_after_megabytes_of_ascii_decides_for_latin_1(tmp_path: Path) -> None:
    ascii_rows = b"text,label\n" + b"a,1\n" * 700_000
    content = ascii_rows + "café,1\n".encode("latin-1")

    found = sniffed(tmp_path, content, name="a.csv")

    assert found.encoding == "latin-1"
    assert f"byte 0xE9 at offset {len(ascii_rows) + 3:,}" in found.notes[0]


def test_a_utf_8_file_with_one_broken_row_stays_utf_8(tmp_path: Path) -> None:
    content = b"text,label\n" + "né,1\n".encode() * 100 + b"n\xe9,1\n"

    found = sniffed(tmp_path, content, name="a.csv")

    assert found.encoding == "utf-8"
    assert "0xE9" in found.notes[0]


def test_an_accent_cut_by_the_end_of_the_file_is_found(tmp_path: Path) -> None:
    assert "0xC3" in sniffed(tmp_path, b"text\n" + b"caf\xc3", name="a.csv").notes[0]


def test_a_multibyte_character_over_the_border_of_two_chunks_is_utf_8(tmp_path: Path) -> None:
    for shift in range(3):
        content = b"text\n" + b"a" * shift + ("€" * 400_000 + "\n").encode()
        assert sniffed(tmp_path, content, name="a.csv").encoding == "utf-8"


def test_text_with_a_few_nuls_is_still_text(tmp_path: Path) -> None:
    assert sniffed(tmp_path, "text,label\na\0b,1\nc,2\n", name="a.csv").kind == "csv"


@pytest.mark.parametrize(
    "blank", [b"", b" \r\n\t\n", codecs.BOM_UTF8, "\ufeff \n".encode("utf-16")]
)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt", "a.parquet"])
def test_nothing_or_white_space_is_an_empty_file(tmp_path: Path, blank: bytes, name: str) -> None:
    with pytest.raises(EmptyFile):
        sniffed(tmp_path, blank, name=name)


def test_a_compressed_nothing_is_an_empty_file(tmp_path: Path) -> None:
    for content in (gzip.compress(b""), zstandard.compress(b" \n")):
        with pytest.raises(EmptyFile):
            sniffed(tmp_path, content, name="a.csv.gz")


def _zip_of(member: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(member, "content")
    return data.getvalue()


def _tar() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        member = tarfile.TarInfo("a.csv")
        member.size = len(CSV)
        archive.addfile(member, io.BytesIO(CSV.encode()))
    return data.getvalue()


def _named(value: object) -> str:
    """Name a case by its text: content may hold the time at which it was packed."""
    return value if isinstance(value, str) else ""


@pytest.mark.parametrize(
    ("content", "spoken"),
    [
        (_zip_of("xl/workbook.xml"), "Excel workbook"),
        (_zip_of("word/document.xml"), "Word document"),
        (_zip_of("archive/data.pkl"), "PyTorch"),
        (_zip_of("a.csv"), "zip archive"),
        (_tar(), "tar archive"),
        (gzip.compress(_tar()), "tar archive"),
        (gzip.compress(gzip.compress(CSV.encode())), "gzip file inside"),
        (pickle.dumps([{"text": "a"}]), "pickle"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "PNG image"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 50, "JPEG image"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 50, "old Excel"),
        (b"<!DOCTYPE html>\n<html><body>Not found</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS"),
        ("a,b\n".encode("utf-32"), "UTF-32"),
        (b"\0" * 5000, "binary"),
        (bytes(range(256)) * 40, "binary"),
        (b"\x01\x00\x02\x00\xff\x00" * 500, "binary"),
    ],
    ids=_named,
)
def test_what_holds_no_rows_is_refused_by_name(tmp_path: Path, content: bytes, spoken: str) -> None:
    with pytest.raises(UnknownFormat) as refused:
        sniffed(tmp_path, content, name="rows.csv")

    assert spoken in refused.value.message
    assert "rows.csv" in refused.value.message
    assert "Accepted are JSONL" in refused.value.hint


def test_text_named_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormat, match="not a Parquet file"):
        sniffed(tmp_path, "Access denied", name="rows.parquet")


@pytest.mark.parametrize("method", [gzip.compress, zstandard.compress])
def test_a_cut_off_compressed_file_is_an_error(tmp_path: Path, method: object) -> None:
    rows = "".join(json.dumps({"text": str(n) * 9}) + "\n" for n in range(5_000))
    whole: bytes = method(rows.encode())  # type: ignore[operator]

    for end in (len(whole) // 2, len(whole) - 1, 12):
        with pytest.raises(DataError, match=r"cut off|damaged"):
            sniffed(tmp_path, whole[:end], name="a.jsonl")


@pytest.mark.parametrize("method", [gzip.compress, zstandard.compress])
def test_a_damaged_compressed_file_is_an_error(tmp_path: Path, method: object) -> None:
    rows = "".join(json.dumps({"text": str(n**5)}) + "\n" for n in range(5_000))
    damaged = bytearray(method(rows.encode()))  # type: ignore[operator]
    damaged[len(damaged) // 2 : len(damaged) // 2 + 8] = b"\xff" * 8

    with pytest.raises(DataError, match=r"damaged|cut off|binary"):
        sniffed(tmp_path, bytes(damaged), name="a.jsonl")


@pytest.mark.parametrize("method", [gzip.compress, zstandard.compress])
def test_several_compressed_parts_are_one_file(tmp_path: Path, method: object) -> None:
    parts = b"".join(method(part.encode()) for part in (JSONL, "\xe9\n"))  # type: ignore[operator]

    assert sniffed(tmp_path, parts, name="a.jsonl").kind == "jsonl"


@pytest.mark.parametrize("method", [gzip.compress, zstandard.compress])
def test_a_decompression_bomb_is_refused(tmp_path: Path, method: object) -> None:
    bomb: bytes = method(b"a\n" * 2_000_000)  # type: ignore[operator]

    with pytest.raises(DataError, match="more than 1,000,000 bytes once it is decompressed"):
        sniffed(tmp_path, bomb, name="a.txt", limits=Limits(max_decoded_bytes=1_000_000))
    with pytest.raises(DataError, match="once it is decompressed"):
        sniffed(tmp_path, bomb, name="a.txt", limits=Limits(max_ratio=100, ratio_free_bytes=0))
