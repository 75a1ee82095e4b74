"""Mark a folder of photos by Ray Data, on one machine or a cluster: the model's input stays.

python examples/mark_with_ray.py PHOTOS MARKED
"""

import argparse

import ray

import vitnull


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos")
    parser.add_argument("marked")
    options = parser.parse_args()
    stamper = vitnull.Stamper(text="(c) 2026", model="vit_small_patch32_224", nullspace="resize")
    images = ray.data.read_images(options.photos, mode="RGB")
    images.map_batches(stamper.on("image"), batch_size=8).write_images(
        options.marked, column="image", file_format="png"
    )


if __name__ == "__main__":
    main()
