"""The keys that scripts rely on, and their types: what every JSON document is held against."""

from collections.abc import Mapping
from types import UnionType
from typing import Any

Number = int | float
NumberOrNull = int | float | None

SHARED: dict[str, Any] = {
    "schema": str,
    "model": str,
    "weights_sha256": str,
    "seconds": Number,
    "versions": {"vitnull": str, "torch": str, "timm": str},
    "device": str,
    "seed": int,
}

BASIS: dict[str, Any] = {
    **SHARED,
    "kind": str,
    "in_chans": int,
    "patch_size": [int],
    "patch_dim": int,
    "embed_dim": int,
    "rank": int,
    "nullity": int,
    "rtol": Number,
    "sigma_max": Number,
    "sigma_min": Number,
    "output_bound": Number,
    "spectrum": [{"sigma_max": Number, "sigma_min": Number, "share_below": dict}],
    "unread": int,
    "nullity_per_channel": [int],
    "space": str,
    "check": {
        "passed": bool,
        "null_logit_mse": Number,
        "random_logit_mse": Number,
        "null_change": Number,
        "random_change": Number,
        "residual": Number,
    },
    "basis": str,
    "preview": str,
}

ANSWER: dict[str, Any] = {"class": int, "label": str | None, "probability": Number}
ANSWER_OR_NULL = (ANSWER, None)

VERDICT: dict[str, Any] = {
    "match": bool | None,
    "confidence_change": NumberOrNull,
    "logit_mse": NumberOrNull,
    "embedding_error": NumberOrNull,
    "feature_cosine": NumberOrNull,
    "feature_change": NumberOrNull,
}

WATERMARKED: dict[str, Any] = {
    "source": str,
    "output": str,
    "size": [int],
    "before": ANSWER_OR_NULL,
    "after": ANSWER_OR_NULL,
    **VERDICT,
    "input_pixels_changed": Number,
    "input_max_change": int,
    "compared_with": str,
    "file_size_ratio": NumberOrNull,
    "blocks_changed": NumberOrNull,
    "psnr": NumberOrNull,
    "mark_correlation": NumberOrNull,
    "nullspace": str,
    "rounding": str,
    "solver": {
        "norm": int,
        "status": str,
        "iterations": int,
        "gap": Number,
        "residual": Number,
        "bound_violation": Number,
    },
    "readers": [{"reader": str, "input_pixels_changed": Number, "rms": Number, "max": int}],
    "verified": bool | None,
    "diff": str | None,
    "diff_gain": float | None,
    "float": str | None,
    "seconds": Number,
}

WATERMARK: dict[str, Any] = {
    **SHARED,
    "shard": str,
    "exit_code": int,
    "weights_sha256": str | None,  # null where no weights were read
    "images": [WATERMARKED],
    "summary": {
        "count": int,
        "failed": int,
        "skipped": int,
        "matched": int | None,
        "match_percent": NumberOrNull,
        "mean_confidence_change": NumberOrNull,
        "bit_identical": int,
        "images_per_second": NumberOrNull,
    },
    "failures": [{"source": str, "error": str}],
}

CHANGE: dict[str, Any] = {"input_pixels_changed": Number, "rms": Number, "max": int}

CHECKED: dict[str, Any] = {
    "source": str,
    "result": str,
    "sizes": {"source": [int], "result": [int]},
    "reading": str,
    "pixels": (CHANGE, None),
    "readers": [
        {
            "reader": str,
            **CHANGE,
            "input_pixels_changed_shown": NumberOrNull,
            "rms_shown": NumberOrNull,
            "max_shown": int | None,
            "jpeg": [{"quality": int, "result": CHANGE, "source": CHANGE}],
            "asked": bool,
            "verified": bool | None,
        }
    ],
    "models": [
        {
            "model": str,
            "before": ANSWER_OR_NULL,
            "after": ANSWER_OR_NULL,
            **VERDICT,
            "input_pixels_changed": Number,
            "verified": bool,
        }
    ],
    "down_and_up": {side: {"rms": Number, "ratio": NumberOrNull, "suspicious": bool} for side in ("source", "result")},
    "verified": bool | None,
    "seconds": Number,
}

CHECK: dict[str, Any] = {
    **SHARED,
    "model": str | None,  # null of none, and of several
    "weights_sha256": str | None,
    "shard": str,
    "exit_code": int,
    "keep": str,
    "tolerance": Number,
    "jpeg": [int],
    "models": [{"model": str, "weights": str, "weights_sha256": str}],
    "images": [CHECKED],
    "summary": {
        "count": int,
        "failed": int,
        "verified": int | None,
        "other_size": int,
        "readers": [{"reader": str, "bit_identical": int, "mean_changed": Number, "mean_rms": Number, "max": int}],
        "models": [{"model": str, "matched": int | None, "match_percent": NumberOrNull, "bit_identical": int}],
        "suspicious": {"source": int, "result": int},
        "images_per_second": NumberOrNull,
    },
    "unmatched": {"source": [str], "result": [str]},
    "failures": [{"source": str, "error": str}],
}

EVALUATED: dict[str, Any] = {
    "noise": str,
    "noise_model": str,
    "kind": str,
    "level": str,
    "limit": NumberOrNull,
    "sigma": NumberOrNull,
    "transfer": bool,
    "realised": bool,
    "residual": NumberOrNull,
    "control": str,
    "trials": int,
    "match_percent": NumberOrNull,
    "match_ci95": ([Number], None),
    "match_trials": ([Number], None),
    "logit_mse": NumberOrNull,
    "logit_mse_per_class": NumberOrNull,
    "probability_mse": NumberOrNull,
    "feature_mse": NumberOrNull,
    "feature_cosine": NumberOrNull,
    "confidence_change": NumberOrNull,
    "noise_norm": Number,
    "accuracy": ({"clean": Number, "noisy": Number}, None),
}

EVAL: dict[str, Any] = {
    **SHARED,
    "exit_code": int,
    "data": str,
    "split": str,
    "transform": str,
    "images": int,
    "outputs": str,
    "accuracy": NumberOrNull,
    "ground_truth": str,
    "results": [EVALUATED],
    "skipped": [str],
}

LEARN_NOISE: dict[str, Any] = {
    **SHARED,
    "level": str,
    "images": int,
    "skipped": [str],
    "outputs": str,
    "preview": str | None,
    "noises": [
        {
            "limit": Number,
            "noise": str,
            "rounds": int,
            "steps": int,
            "loss_first": Number,
            "loss_last": Number,
            "norm_init": Number,
            "norm_final": Number,
            "images_per_second": NumberOrNull,
            "stopped": bool,
        }
    ],
}

SIMILARITY: dict[str, Any] = dict.fromkeys(("spearman", "pearson", "ssim", "top10"), NumberOrNull)

FOOL: dict[str, Any] = {
    **SHARED,
    "source": str,
    "target": str,
    "sources": (
        {"candidates": int, "score": Number, "estimate": Number, "median_estimate": Number, "skipped": [str]},
        None,
    ),
    "size": [int],
    "channels": str,
    "bounded": bool,
    "strength": Number,
    "nullspace": str,
    "prediction": dict.fromkeys(("source", "target", "transformed", "preview"), ANSWER_OR_NULL),
    **VERDICT,
    "input_pixels_changed": NumberOrNull,
    "range": [Number],
    "likeness": {
        "ssim_target": Number,
        "ssim_source": Number,
        "psnr_target": NumberOrNull,
        "psnr_source": NumberOrNull,
        "detail_correlation_target": NumberOrNull,
        "detail_correlation_source": NumberOrNull,
        "correlation_target": NumberOrNull,
        "correlation_source": NumberOrNull,
        "score": Number,
    },
    "saliency": ({}, None),
    "saliency_png": ({}, None),
    "solver": WATERMARKED["solver"],
    "verified": bool,
    "noise_gain": float | None,
    "artifacts": {"image": str, "exact": str | None, "noise": str, "sheet": str},
}


AREAS: dict[str, Any] = {
    "positive": Number,
    "negative": Number,
    "positive_label": NumberOrNull,
    "negative_label": NumberOrNull,
}

LIKENESS: dict[str, Any] = {
    **dict.fromkeys(("spearman", "pearson", "ssim", "top10"), NumberOrNull),
    "undefined": int,
}

EXPLAIN: dict[str, Any] = {
    **SHARED,
    "shard": str,
    "exit_code": int,
    "images": [
        {
            "source": str,
            "prediction": ANSWER_OR_NULL,
            "explained": ({"class": int, "label": str | None}, None),
            "methods": dict,  # of each method by name: EXPLAINED
            "sheet": str | None,
            "float": str | None,
            "seconds": Number,
        }
    ],
    "summary": {"count": int, "failed": int, "images_per_second": NumberOrNull},
    "faithfulness": dict | None,  # of each method by name: AREAS, and the same of a "random" map
    "plot": str | None,
    "noise": ({"rms": Number, "match_percent": {"null": NumberOrNull}, "methods": dict}, None),  # LIKENESS by noise
    "failures": [{"source": str, "error": str}],
}

EXPLAINED: dict[str, Any] = {"overlay": str | None, "grid": [int], "range": [Number]}

_OWN_OF_FOOL = {name: kind for name, kind in FOOL.items() if name not in (*SHARED, "sources")}

DEMO: dict[str, Any] = {
    **SHARED,
    "images": int,
    "accuracy": {"demo": Number, "demo-cnn": Number},
    "nullspace": {"rank": int, "nullity": int, "check": BASIS["check"]},
    "noise": {"std": Number, "match_percent": {"demo": {"null": Number, "random": Number}}},
    "cnn": str | None,
    "watermarks": [WATERMARKED],
    "native": WATERMARKED,
    "learned_noise": {
        **{name: LEARN_NOISE[name] for name in ("level", "images", "preview", "noises")},
        "plan": dict,
        "results": [EVALUATED],
    },
    "fool": _OWN_OF_FOOL,
    "explain": EXPLAIN["images"],
    "artifacts": [str],
}


def check_keys(document: Mapping[str, Any], keys: Mapping[str, Any]) -> None:
    """See that a document has all the keys, of the right types; further keys are welcome."""
    for name, kind in keys.items():
        assert name in document, f"no key {name}"
        _check_type(document[name], kind, name)


def _check_type(value: Any, kind: Any, name: str) -> None:
    if isinstance(kind, Mapping):
        assert isinstance(value, Mapping), f"{name}: {value!r}"
        check_keys(value, kind)
    elif isinstance(kind, tuple):  # what it is, unless it is null
        if value is not None:
            _check_type(value, kind[0], name)
    elif isinstance(kind, list):
        assert isinstance(value, list), f"{name}: {value!r}"
        for item in value:
            _check_type(item, kind[0], name)
    else:
        allowed = kind.__args__ if isinstance(kind, UnionType) else (kind,)
        assert type(value) in allowed, f"{name}: {value!r}"  # exactly: True is not a number here
