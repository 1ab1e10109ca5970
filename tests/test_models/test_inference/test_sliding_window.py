from pgseg_mm.models.inference.sliding_window import Window, sliding_windows


def test_windows_as_mmseg_places_them():
    assert sliding_windows((448, 597), (448, 448), (224, 224)) == [
        Window(0, 0, 448, 448),
        Window(0, 149, 448, 597),
    ]
    assert sliding_windows((300, 200), (448, 448), (224, 224)) == [Window(0, 0, 300, 200)]
    assert [w.left for w in sliding_windows((10, 25), (10, 10), (5, 5))] == [0, 5, 10, 15]
