"""What falls short of what was asked for."""

from nullspace_cli.engine.workflows.evaluate import below


def test_noise_alone_is_held_against_what_was_asked_for() -> None:
    results = [
        {"control": control, "match_percent": match}
        for control, match in (("none", 90.0), ("shuffle", 10.0), ("none", 89.9), ("none", None))
    ]
    assert below(results, 90.0) == results[2:]
    assert below(results, 0.0) == results[3:]
