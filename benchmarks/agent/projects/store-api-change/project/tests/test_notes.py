from importer import import_lines
from report import report
from store import NoteStore


def test_lines_are_imported_with_their_authors():
    store = NoteStore()
    assert import_lines(store, ["milk: ann: buy some"]) == 1
    assert store.get("milk") == ("buy some", "ann")


def test_the_report_names_the_authors():
    store = NoteStore()
    store.put("milk", "buy some", author="ann")
    assert report(store) == "milk by ann: BUY SOME"
