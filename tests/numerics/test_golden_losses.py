"""The losses of a small run with everything on, against literals: a change of the engine must not change them."""

import pytest

# 78 images in updates of 8, the last of 6; mixup, cutmix, erasing, stochastic depth, averages and warm-up are on.
# Recorded with the first version of the engine. Other CPUs sum in another order, which grows to about 1e-5 in an epoch.
LOSSES = [
    1.1000035,
    1.1070538,
    1.1098363,
    1.1011549,
    1.0811534,
    1.1003209,
    1.152984,
    1.0835109,
    1.0192592,
    1.1605159,
    1.0997211,
    1.0485089,
    1.0485251,
    1.1054873,
    1.1388062,
    1.1429777,
    1.0848438,
    1.1268677,
    1.0377452,
    1.1511365,
    1.108497,
    1.0137783,
    1.0792525,
    1.0201082,
    1.149413,
    1.0626388,
    1.134544,
    1.1024572,
    1.1088346,
    1.1246026,
]
RATES = [
    5e-07,
    0.00020045000000000002,
    0.00040040000000000003,
    0.00060035,
    0.0008003,
    0.00100025,
    0.0012002000000000002,
    0.0014001500000000002,
    0.0016001000000000001,
    0.00180005,
    0.002,
    0.0019876883405951376,
    0.0019510565162951536,
    0.0018910065241883678,
    0.0018090169943749475,
    0.0017071067811865474,
    0.0015877852522924731,
    0.0014539904997395467,
    0.0013090169943749475,
    0.001156434465040231,
    0.001,
    0.000843565534959769,
    0.0006909830056250527,
    0.0005460095002604533,
    0.00041221474770752696,
    0.00029289321881345256,
    0.00019098300562505265,
    0.00010899347581163222,
    4.894348370484647e-05,
    1.231165940486234e-05,
]
EVALUATIONS = [1.0394971, 1.0304364, 1.0323976]


def test_the_curve_is_the_recorded_one(runner):
    options = ["TRAIN.EPOCHS", "3", "TRAIN.WARMUP_EPOCHS", "1", "TRAIN.EMA.ENABLE", "True"]
    assert runner("golden", "--opts", *options) == 0
    rows = runner.rows("golden", "train")
    assert [row["loss"] for row in rows] == pytest.approx(LOSSES, rel=1e-4)
    assert [row["lr"] for row in rows] == pytest.approx(RATES, rel=1e-12)
    assert [row["loss"] for row in runner.rows("golden", "eval")] == pytest.approx(EVALUATIONS, rel=1e-4)
