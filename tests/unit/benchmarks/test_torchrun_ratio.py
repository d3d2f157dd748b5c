"""What is compared is a pair: two runs after each other, whichever came first."""

from benchmarks.torchrun_ratio import Pairs, conclude


def test_medians_are_of_pairs_and_above_one_where_fairlead_is_faster() -> None:
    keys = [(page, workers) for page in ("image_cnn", "transformer_lm") for workers in (1, 2)]
    steps = {key: Pairs(ours=[10.0, 40.0, 10.0], theirs=[9.0, 44.0, 10.0]) for key in keys}
    whole = {key: Pairs(ours=[200.0], theirs=[100.0]) for key in keys}
    found = conclude(steps, whole, {}, {"fairlead_image_cnn_1": [1.5]})
    assert found.result.image_cnn_1 == found.result.transformer_lm_2 == 1.0
    assert found.details["step_ratio"]["image_cnn_2"]["max"] == 1.1
    assert found.details["epoch_ratio"]["image_cnn_2"]["p50"] == 0.5
    assert found.details["peak_gb"]["fairlead_image_cnn_1"]["p50"] == 1.5
