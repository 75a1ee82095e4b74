"""Run every benchmark and print one table: what, ours, the reference, the ratio, the bound."""

from benchmarks import basis, start_up, watermark
from benchmarks.measure import Row


def main() -> None:
    rows: list[Row] = [*basis.rows(), *watermark.rows(), *start_up.rows()]
    print("| what | ours | reference | ratio | bound |")
    print("| --- | --- | --- | --- | --- |")
    for row in rows:
        print(f"| {row.what} | {row.ours:.3f} s | {row.reference} {row.theirs:.3f} s | {row.ratio:.2f} | {row.bound} |")


if __name__ == "__main__":
    main()
