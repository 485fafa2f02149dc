"""Tables in Markdown."""

ALIGNMENTS = {"left": ":--", "right": "--:", "center": ":-:"}


def render_table(header, rows, align=None, empty=""):
    """A Markdown table as text.

    `align` gives "left", "right" or "center" for each column; columns are as wide as their widest
    cell. Missing cells at the end of a row are filled with `empty`.
    """
    if not header:
        raise ValueError("a table needs at least one column")
    count = len(header)
    if align is None:
        align = ["left"] * count
    if len(align) != count:
        raise ValueError("one alignment for each column")
    for name in align:
        if name not in ALIGNMENTS:
            raise ValueError(f"unknown alignment {name!r}")

    cells = [[str(cell).replace("|", "\\|") for cell in header]]
    for number, row in enumerate(rows, start=1):
        if len(row) > count:
            raise ValueError(f"row {number} has too many cells")
        filled = list(row) + [empty] * (count - len(row))
        cells.append([str(cell).replace("|", "\\|") for cell in filled])

    widths = []
    for column in range(count):
        widest = max(len(row[column]) for row in cells)
        widths.append(max(widest, 3))

    lines = []
    for row in cells:
        parts = []
        for cell, width, name in zip(row, widths, align):
            if name == "right":
                parts.append(cell.ljust(width))
            elif name == "center":
                parts.append(cell.center(width))
            else:
                parts.append(cell.ljust(width))
        lines.append("| " + " | ".join(parts) + " |")

    rule = []
    for width, name in zip(widths, align):
        marks = ALIGNMENTS[name]
        rule.append(marks[0] + "-" * (width - 2) + marks[-1])
    lines.insert(1, "| " + " | ".join(rule) + " |")
    return "\n".join(lines)
