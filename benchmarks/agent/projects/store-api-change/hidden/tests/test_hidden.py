from importer import import_lines
from report import report
from store import NoteStore


def test_both_ends_work_together():
    store = NoteStore()
    lines = ["b: bob: two: parts", "a: ann: one"]
    assert import_lines(store, lines) == 2
    assert report(store) == "a by ann: ONE\nb by bob: TWO: PARTS"


def test_an_empty_store_has_an_empty_report():
    assert report(NoteStore()) == ""
