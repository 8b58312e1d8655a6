"""The table of campaigns."""

import json
import shutil

import pytest

from experiments import autonomy
from trajcast_jax.network import checkpoint


def test_campaigns_are_tabulated_with_their_verdicts(tmp_path):
    home = tmp_path / "sand"
    (home / "model").mkdir(parents=True)
    shutil.copy(checkpoint.pretrained("quartz") / "card.json", home / "model")
    (home / "sand.toml").write_text("[reference]\n")
    judged = {"shortfall": 0.5, "sentence": "Passed: 3 forecasts meet all 8 criteria."}
    records = [
        {"step": "reference", "seconds": 1800.0, "result": {}},
        {"step": "round 1 judge", "seconds": 1800.0, "result": judged},
        {"step": "round 2 judge", "seconds": 0.0, "result": judged},
    ]
    path = home / "journal.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    arguments = autonomy.Arguments((home,), cores=1, note="Once more.", out=tmp_path)
    with pytest.raises(ValueError, match="has not ended"):
        autonomy.main(arguments)
    end = {"event": "end", "accepted": False, "reason": "it was enough", "sentence": "No."}
    path.write_text(path.read_text() + json.dumps(end) + "\n")
    autonomy.main(arguments)
    page = (tmp_path / "autonomy.md").read_text()
    assert "| sand |" in page
    assert "1.00 on 1 core | 2 | REJECTED |" in page
    assert "- 1.00 h, round 1 judge: shortfall 0.50. Passed: 3 forecasts" in page
    assert "it was enough" in page
    assert "` Once more.\n" in page
    kept = json.loads((tmp_path / "autonomy.json").read_text())
    assert kept["sand"]["journal"] == [*records, end]
