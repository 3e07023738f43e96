"""Config files of any bytes and settings of any value: a config or a clear error."""

import pytest
import yaml
from fuzz import changed, damaged, result_or_none, texts, values
from hypothesis import given
from hypothesis import strategies as st

from captioner.config.run import Config
from captioner.models.folder import load_config

pytestmark = [pytest.mark.row(24), pytest.mark.timeout(3600)]

GOOD = {
    "init": "bundled",
    "data": {
        "train": {"annotations": "captions.json"},
        "captions_per_image": "all",
        "holdout": 0.1,
    },
    "decoder": {"cell": "gru", "layers": 2},
    "decoding": {"require": ["dog"], "min_length": 3},
    "training": {
        "phases": [{"epochs": 2}, {"self_critical": {"reward": {"CIDEr": 1}}}],
        "max_steps": None,
    },
}
BOMBS = (
    "a: &a [x, x]\nb: &b [*a, *a]\n",
    "init: &a [*a]\n",
    "a: 2024-13-45\n",
    "2024-01-01: a\n",
    "a: !!int ''\n",
    "a: !!python/name:os.system\n",
    "a: 0x_\n",
    "a: 1:59:59\n",
    '"\\UFFFFFFFF": 1\n',
    "? [a]\n: b\n",
    "<<: {a: 1}\n",
)

keys = st.sampled_from(
    ["training.batch_size", "training.phases.0.epochs", "data", "init", "encoder.weights.x", ""]
)
settings = st.builds(
    "{}={}".format, keys | texts, st.text(max_size=9) | values.map(repr) | st.sampled_from(BOMBS)
)
good_files = changed(GOOD).map(
    lambda given: yaml.safe_dump(given, allow_unicode=True).encode("utf-8", "surrogatepass")
)
bomb_files = st.builds(
    lambda bomb, more: bomb.encode() + more, st.sampled_from(BOMBS), st.binary() | good_files
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("configs") / "config.yaml"


@given(
    data=good_files | damaged(good_files) | bomb_files | st.binary(),
    overrides=st.lists(settings, max_size=2),
)
def test_fuzzed_configs_are_read_or_refused(file, data, overrides):
    file.write_bytes(data)
    config = result_or_none(load_config, file, overrides)
    assert config is None or Config.parse(config.to_json(), source="again") == config
