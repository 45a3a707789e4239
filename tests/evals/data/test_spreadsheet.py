"""Workbooks as VLMEvalKit writes them: read without a package, and refused in one line where they cannot be."""

import zipfile
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vlm_evals.data.formats import read_answers, read_captions
from vlm_evals.data.tabular import rows_of
from vlm_evals.errors import FileFormatError

XMLNS = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'


def workbook(path: Path, rows: list[list[object]], *, inline: bool = False) -> Path:
    """Write a workbook: texts in the shared list or in their cells, numbers as numbers, None as no cell at all."""
    texts: list[str] = []
    lines = []
    for number, row in enumerate(rows, start=1):
        cells = []
        for column, value in enumerate(row):
            place = f"{chr(65 + column)}{number}"
            if value is None:
                continue
            if not isinstance(value, str):
                cells.append(f'<c r="{place}"><v>{value}</v></c>')
            elif inline:
                text = escape(value)
                cells.append(f'<c r="{place}" t="inlineStr"><is><t xml:space="preserve">{text}</t></is></c>')
            else:
                cells.append(f'<c r="{place}" t="s"><v>{len(texts)}</v></c>')
                texts.append(value)
        lines.append(f'<row r="{number}">{"".join(cells)}</row>')
    with zipfile.ZipFile(path, "w") as book:
        book.writestr("xl/worksheets/sheet2.xml", f"<worksheet {XMLNS}><sheetData/></worksheet>")
        sheet = f"<worksheet {XMLNS}><sheetData>{''.join(lines)}</sheetData></worksheet>"
        book.writestr("xl/worksheets/sheet1.xml", sheet)
        shared = "".join(f'<si><t xml:space="preserve">{escape(text)}</t></si>' for text in texts)
        book.writestr("xl/sharedStrings.xml", f"<sst {XMLNS}>{shared}</sst>")
    return path


TEXT = st.text(
    st.characters(min_codepoint=32, exclude_categories=["Cs"], exclude_characters="\ufffe\uffff"), max_size=9
)


@given(st.lists(st.lists(TEXT, min_size=2, max_size=2), min_size=1, max_size=4), st.booleans())
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], inline: bool
) -> None:
    path = workbook(tmp_path_factory.mktemp("book") / "a.xlsx", [["one", "two"], *rows], inline=inline)
    expected = [
        (number, {"one": first, "two": second})
        for number, (first, second) in enumerate(rows, start=2)
        if first or second
    ]
    assert list(rows_of(path)) == expected


def test_numbers_empty_cells_and_styled_texts(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.XLSX", [["index", "question", "answer"], [7, None, "Yes"], [None, None, None]])
    assert list(rows_of(path)) == [(2, {"index": "7", "question": "", "answer": "Yes"})]
    with zipfile.ZipFile(tmp_path / "b.xlsx", "w") as book:
        cell = '<c r="A1" t="s"><v>0</v></c>', '<c r="A2" t="s"><v>1</v></c>'
        rows = f'<row r="1">{cell[0]}</row><row r="2">{cell[1]}</row>'
        book.writestr("xl/worksheets/sheet1.xml", f"<worksheet {XMLNS}><sheetData>{rows}</sheetData></worksheet>")
        styled = "<si><r><t>A dog</t></r><r><rPr/><t>, a cat</t></r><rPh><t>ADOGGU</t></rPh></si>"
        book.writestr("xl/sharedStrings.xml", f"<sst {XMLNS}><si><t>text</t></si>{styled}</sst>")
    assert list(rows_of(tmp_path / "b.xlsx")) == [(2, {"text": "A dog, a cat"})]


def test_the_prediction_is_what_was_said_and_the_answer_what_is_right(tmp_path: Path) -> None:
    rows = [
        ["index", "question", "answer", "category", "prediction"],
        [0, "Is there a dog in the image?", "Yes", "random", "No"],
    ]
    for path in (workbook(tmp_path / "a.xlsx", rows), tmp_path / "a.tsv"):
        if path.suffix == ".tsv":
            path.write_text("\n".join("\t".join(map(str, row)) for row in rows))
        (found,) = read_answers(path)
        assert found.text == "No"
        assert found.split == "random"
    captions = workbook(tmp_path / "c.xlsx", [["image", "answer", "prediction"], ["7.jpg", "A cat.", "A dog."]])
    assert read_captions(captions)[0].text == "A dog."


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 torn"])
def test_what_is_no_workbook_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.xlsx"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"a\.xlsx.*save it as \.csv") as found:
        list(rows_of(path))
    assert "\n" not in str(found.value)


def test_damaged_sheets_are_refused(tmp_path: Path) -> None:
    for name, sheet in {
        "xml": "<worksheet",
        "place": f'<worksheet {XMLNS}><c r="7"><v>1</v></c></worksheet>',
        "text": f'<worksheet {XMLNS}><c r="A1" t="s"><v>9</v></c></worksheet>',
    }.items():
        with zipfile.ZipFile(tmp_path / f"{name}.xlsx", "w") as book:
            book.writestr("xl/worksheets/sheet1.xml", sheet)
        with pytest.raises(FileFormatError, match="no workbook that can be read"):
            list(rows_of(tmp_path / f"{name}.xlsx"))
    with zipfile.ZipFile(tmp_path / "none.xlsx", "w") as book:
        book.writestr("other.xml", "<a/>")
    with pytest.raises(FileFormatError, match="without a sheet"):
        list(rows_of(tmp_path / "none.xlsx"))
    unnamed = workbook(tmp_path / "wide.xlsx", [["one"], ["a", "b"]])
    with pytest.raises(FileFormatError, match="B2 stands in a column without a name"):
        list(rows_of(unnamed))
