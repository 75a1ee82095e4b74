"""The benchmark for a card runs: on the simulated one, on next to nothing."""

import pytest

from benchmarks import card


@pytest.mark.slow
@pytest.mark.gpu
def test_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    card.main(["--small"])
    title, _, *table = capsys.readouterr().out.splitlines()
    assert title.startswith("vit_small_patch32_224 (random weights), ")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert [row[0] for row in cells[2:]] == [
        "bf16 matrix rate",
        "learn-noise, float32",
        "learn-noise, float32, 500 rounds on 6 images",
        "learn-noise, bfloat16",
        "learn-noise, bfloat16, 500 rounds on 6 images",
        "the authors' loop, 500 rounds on 6 images",
        "watermark, 512 px at native size",
        "watermark, model size, p = 2",
        "watermark, model size, p = 1",
    ]
    assert all(float(row[1].split()[0].strip("%")) >= 0 for row in cells[2:])


def test_without_a_card_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    card.main([])
    assert capsys.readouterr().out == f"{card.NONE_HERE}\n"
