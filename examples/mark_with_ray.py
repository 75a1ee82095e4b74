"""Mark a folder of photos by Ray Data, on one machine or a cluster: the model's input stays.

python examples/mark_with_ray.py PHOTOS MARKED
"""

import sys

import ray

import vitnull


def main() -> None:
    photos, marked = sys.argv[1:]
    stamper = vitnull.Stamper(text="(c) 2026", model="vit_small_patch32_224", nullspace="resize")
    images = ray.data.read_images(photos, mode="RGB")
    images.map_batches(stamper.on("image"), batch_size=8).write_images(marked, column="image", file_format="png")


if __name__ == "__main__":
    main()
