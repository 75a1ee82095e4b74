"""Run the benchmarks, or the groups that are named: tables of ratios and of figures, and what has become slower."""

import argparse
from collections.abc import Callable, Mapping, Sequence

from benchmarks import basis, batches, history, learning, native, rounding, shards, start_up, stems, watermark
from benchmarks.measure import Figure, Row

GROUPS: Mapping[str, Callable[[], Sequence[Row | Figure]]] = {
    "basis": basis.rows,
    "watermark": watermark.rows,
    "rounding": rounding.rows,
    "native": native.rows,
    "batches": batches.rows,
    "shards": shards.rows,
    "learning": learning.rows,
    "stems": stems.rows,
    "start_up": start_up.rows,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="group", help=f"any of {', '.join(GROUPS)}; by default all")
    chosen = parser.parse_args().groups or list(GROUPS)
    if unknown := [name for name in chosen if name not in GROUPS]:
        parser.error(f"no group {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    results = [result for name in chosen for result in GROUPS[name]()]
    ratios = [result for result in results if isinstance(result, Row)]
    figures = [result for result in results if isinstance(result, Figure)]
    if ratios:
        print("\n| what | ours | reference | ratio | bound |")
        print("| --- | --- | --- | --- | --- |")
    for row in ratios:
        print(f"| {row.what} | {row.ours:.3f} s | {row.reference} {row.theirs:.3f} s | {row.ratio:.4f} | {row.bound} |")
    if figures:
        print("\n| what | measured | bound | besides |")
        print("| --- | --- | --- | --- |")
    for figure in figures:
        print(f"| {figure.what} | {figure.measured} | {figure.bound} | {figure.besides} |")
    for sentence in history.grown(ratios, history.read()):
        print(f"\nslower than before: {sentence}")
    history.append(ratios)


if __name__ == "__main__":
    main()
