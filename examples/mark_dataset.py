"""Mark the images of a Parquet file by `datasets`, in several processes; the other columns stay.

python examples/mark_dataset.py IN.parquet OUT.parquet [PROCESSES]
"""

import sys

import datasets

import vitnull


def main() -> None:
    source, result, *processes = sys.argv[1:]
    stamper = vitnull.Stamper(text="(c) 2026", model="vit_small_patch32_224", nullspace="resize")
    rows = datasets.load_dataset("parquet", data_files=[source], split="train")
    marked = rows.map(stamper.on("image"), num_proc=int((processes or ["1"])[0]), desc="marked")
    marked.to_parquet(result)


if __name__ == "__main__":
    main()
