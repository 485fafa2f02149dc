"""Write records as delimited text."""

import csv
import io


def column_names(records):
    names = []
    for record in records:
        for name in record:
            if name not in names:
                names.append(name)
    return names


def to_text(records, delimiter=",", header=False):
    """Records (dicts) as delimited text; the header row can be switched off."""
    names = column_names(records)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, delimiter=delimiter, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()
