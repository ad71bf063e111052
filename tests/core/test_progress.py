"""Plain lines where there is no terminal."""

from decomcam_bench.core import progress


def test_lines_tell_the_rate_and_what_takes_long(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.progress(4, "toybox x toyclip") as bar:
        bar.set_postfix_str("gradcam layer4")
        assert capsys.readouterr().err == ""
        now[0] = 112.0
        bar.set_postfix_str("scorecam layer4")
        bar.update(1)
        now[0] = 140.0
        bar.update(3)
    assert capsys.readouterr().err.splitlines() == [
        "toybox x toyclip: 0/4 images, scorecam layer4",
        "toybox x toyclip: 4/4 images, 0.10 images/s, 0 s left",
    ]
