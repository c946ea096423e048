"""What users type: the rehearsal's and the soak's words, and what they print."""

import argparse
from collections import Counter

import pytest
from bus import rehearse, soak, talk
from bus.simulation import Setting
from bus.stations import Poll


@pytest.mark.parametrize("text", ["1:3:0", "0:3:0:1", "248:3:0:1", "1:6:0:1", "1:3:x:1", "1:3:0:70000", "1:3:0:1:1"])
def test_a_poll_that_is_none_is_named(text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is not UNIT:FUNCTION:ADDRESS:QUANTITY"):
        rehearse.poll_of(text)


def test_words_of_the_rehearsal():
    assert rehearse.poll_of("17:4:300:2") == (17, bytes.fromhex("04 012C 0002"))
    assert rehearse.numbers("5,6") == [5, 6]
    with pytest.raises(argparse.ArgumentTypeError, match="'5,248' holds a number"):
        rehearse.numbers("5,248")


@pytest.mark.parametrize(
    ("heard", "column"),
    [
        (talk.frame(b"\3\2\0\7", 1), "answered"),
        (b"\0" + talk.frame(b"\3\2\0\7", 1), "answered"),
        (talk.frame(b"\x83\2", 1), "exceptions"),
        (talk.frame(b"\3\2\0\7", 2), "damaged"),
        (talk.frame(b"\3\2\0\7", 1)[:-1], "damaged"),
        (b"", "silent"),
    ],
)
def test_the_rehearsal_counts_what_came(heard, column):
    class Sent:
        frame_end = 1.0

    tally = rehearse.Tally()
    tally.closed(Poll(1, b"\3\0\0\0\1", Sent, heard=bytearray(heard), answered=1.5))
    row = tally.units[1]
    assert (row["asked"], row[column]) == (1, 1)
    assert sum(row[name] for name in ("answered", "exceptions", "damaged", "silent")) == 1
    assert row["worst"] == (0.5 if column in ("answered", "exceptions") else 0)


def test_a_setting_is_read_from_words():
    assert soak.parse_setting("errors=0.01, late=0.016, echo=True,chunk=8") == Setting(errors=0.01, late=0.016, echo=True, chunk=8)
    with pytest.raises(argparse.ArgumentTypeError, match="'noise' is none of baudrate, slaves"):
        soak.parse_setting("noise=1")


def test_the_soak_ends_well_where_all_is_well(capsys):
    assert soak.main(["--polls", "200", "--only", "chunk=8", "--processes", "1"]) == 0
    out = capsys.readouterr().out
    assert "all is well" in out
    answered, intact = out.split("this line")[1].split()[:3:2]
    assert answered == intact
    assert int(intact) >= 200


def test_the_soak_says_what_went_wrong(capsys, monkeypatch):
    monkeypatch.setattr(soak, "soak", lambda *_: soak.Verdict(Counter({"false executions": 1})))
    assert soak.main(["--polls", "100"]) == 1
    assert "this must not be" in capsys.readouterr().out


def test_the_soak_covers_every_combination():
    settings = [setting for _, setting in soak.all_settings()]
    assert len(settings) == len(set(settings)) == 3 * 4 * 6 * len(soak.EXTRAS)
