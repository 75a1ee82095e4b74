"""Mark the images of a Parquet file by `datasets`, in several processes; the other columns stay.

python examples/mark_dataset.py IN.parquet OUT.parquet [PROCESSES]
"""

import argparse

import datasets

import vitnull


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", metavar="IN.parquet")
    parser.add_argument("result", metavar="OUT.parquet")
    parser.add_argument("processes", type=int, nargs="?", default=1)
    options = parser.parse_args()
    stamper = vitnull.Stamper(text="(c) 2026", model="vit_small_patch32_224", nullspace="resize")
    rows = datasets.load_dataset("parquet", data_files=[options.source], split="train")
    marked = rows.map(stamper.on("image"), num_proc=options.processes, desc="marked")
    marked.to_parquet(options.result)


if __name__ == "__main__":
    main()
