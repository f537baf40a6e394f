from app.repeated_warnings import RepeatedWarning


def test_it_is_due_at_once_and_then_once_per_interval(monkeypatch):
    now = 1_000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    reminder = RepeatedWarning(30.0)
    assert reminder.due()
    now += 29.9
    assert not reminder.due()
    now += 0.2
    assert reminder.due()
    assert not reminder.due()
