"""Command lines to begin with, for --help, the reference and the man page; a test runs them in this order."""

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "basis": (
        ("vitnull basis vit_small_patch32_224", "Published weights, from the hub."),
        ("vitnull basis demo", "The embedded model: no network. Writes demo.basis.safetensors and .png."),
        ("vitnull basis my_model --checkpoint weights.pth --json", "Your own weights, and one JSON document."),
    ),
    "learn-noise": (
        ("vitnull learn-noise demo --data demo --limit 0.5 --limit 1 --rounds 3", "Two noises in one run."),
        ("vitnull learn-noise vit_small_patch32_224 --data imagenet/ --resume", "Go on where a run was interrupted."),
    ),
    "eval": (
        ("vitnull eval demo demo.encoder.*.safetensors --data demo --count 50 -o demo.json", "Learned noise."),
        ("vitnull eval demo --noise demo.basis.safetensors --sigma 0.1 --data demo --count 50", "Exact noise."),
        ("vitnull eval --results demo.json --plot demo.png", "Curves of earlier runs, without a model."),
    ),
    "watermark": (
        ("vitnull watermark photo.jpg logo.png", "As cp: the last name is the mark. Writes photo.watermarked.png."),
        ('vitnull watermark photo.jpg --text "(c) 2026" -o marked.jpg', "Letters, and a JPEG of a JPEG."),
        ("vitnull watermark photos/ logo.png --out-dir marked --jsonl", "A folder, a record a line."),
        ("vitnull watermark - logo.png -o - < photo.jpg > marked.png", "From a pipe into a pipe."),
    ),
    "check": (
        ("vitnull check photo.jpg marked.jpg", "What common readers are given of both."),
        ("vitnull check photos/ marked/ --model demo --keep answer", "Two folders, by name; exit code 3 if one fails."),
    ),
    "fool": (
        ("vitnull fool cat.jpg dog.jpg --model demo", "People see a dog, the network a cat."),
        ("vitnull fool dog.jpg --sources photos/ --model demo", "Whichever of the folder is most like the dog."),
    ),
    "explain": (
        ("vitnull explain photo.jpg --model demo", "photo.attribution.png, a heat map over the photo."),
        ("vitnull explain photos/ --method all --model demo --out-dir maps", "All methods, side by side."),
    ),
    "demo": (("vitnull demo", "Everything, in about a minute, into vitnull-demo/; index.html is the page."),),
    "claim commit": (
        (
            "vitnull claim commit vit_small_patch32_224",
            "Publish the digest that it prints.",
        ),
        (
            "vitnull claim commit vit_small_patch32_224 --reveal -o revealed.safetensors",
            "For a judge, later.",
        ),
    ),
    "claim probes": (
        ("vitnull claim probes revealed.safetensors --images demo --count 4 --out-dir probes", "Images to ask with."),
    ),
    "claim check": (
        ("vitnull claim check revealed.safetensors vit_small_patch32_224", "Is this one derived from the claim's?"),
    ),
    "help": (("vitnull help watermark", "As vitnull watermark --help."),),
}
