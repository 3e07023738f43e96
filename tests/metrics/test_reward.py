"""The reward is a weighted sum of metrics of single captions; CIDEr-D includes an end mark."""

import random
import time

import pytest

from captioner.data.datasets import load_references
from captioner.metrics.cider import CiderD, ReferenceNgrams
from captioner.metrics.reward import Reward
from captioner.metrics.scorer import Scorer
from captioner.text.tokenizer import tokenize


def words(caption):
    return caption.split()


def ended(captions):
    return [[*caption, "<eos>"] for caption in captions]


@pytest.fixture
def split(random_captions):
    """The references of thirty images, indices of images with repeats, and a caption for each."""
    references, candidates = random_captions(30, shortest=3)
    images = [4, 4, 4, 29, 0, 0, 11]
    return references, images, candidates[: len(images)]


def test_cider_is_cider_d_with_an_end_mark_among_all_images_of_the_split(split):
    references, images, captions = split
    metric = CiderD(ReferenceNgrams([ended(spoken) for spoken in references]))
    rewards = Reward(references, {"CIDEr": 1})(images, captions)
    for image, caption, reward in zip(images, captions, rewards, strict=True):
        _, each = metric.score(ended([caption] * len(references)))
        assert reward == pytest.approx(each[image], abs=1e-9)


def test_cider_equals_cocos_tool(random_captions, as_coco):
    coco = pytest.importorskip("pycocoevalcap.cider.cider")
    references, candidates = random_captions(100, shortest=0)
    spoken, said = (
        as_coco([ended(captions) for captions in references]),
        as_coco([ended([c]) for c in candidates]),
    )
    _, each = coco.Cider().compute_score(spoken, said)
    assert Reward(references, {"CIDEr": 1})(range(100), candidates) == pytest.approx(each, abs=1e-9)


@pytest.mark.parametrize("metric", ["Bleu_4", "ROUGE_L", "METEOR"])
def test_the_other_metrics_equal_the_scorers_metrics_of_each_image(random_captions, metric):
    references, candidates = random_captions(20, shortest=1)
    scorer = Scorer(
        {
            image: [" ".join(caption) for caption in spoken]
            for image, spoken in enumerate(references)
        }
    )
    per_image = scorer.score(
        {image: " ".join(caption) for image, caption in enumerate(candidates)}
    ).per_image["METEOR_no_paraphrases" if metric == "METEOR" else metric]
    backwards = range(19, -1, -1)
    rewards = Reward(references, {metric: 1})(backwards, candidates[::-1])
    assert rewards == pytest.approx([per_image[image] for image in backwards], abs=1e-12)


def test_metrics_are_weighed_and_added(split):
    references, images, captions = split
    alone = {
        name: Reward(references, {name: 1})(images, captions)
        for name in ("CIDEr", "Bleu_4", "ROUGE_L", "METEOR")
    }
    weights = {"CIDEr": 0.7, "Bleu_4": 2, "ROUGE_L": 0.5, "METEOR": 1}
    expected = sum(weight * alone[name] for name, weight in weights.items())
    assert Reward(references, weights)(images, captions) == pytest.approx(expected, abs=1e-12)


def test_a_metric_without_weight_is_not_computed(split, monkeypatch):
    references, images, captions = split
    monkeypatch.delattr("captioner.metrics.reward.Meteor")
    monkeypatch.delattr("captioner.metrics.reward.ReferenceNgrams")
    assert len(
        Reward(references, {"CIDEr": 0, "METEOR": 0, "ROUGE_L": 1})(images, captions)
    ) == len(images)


def test_stopping_in_mid_sentence_is_not_rewarded():
    spoken = [
        "a dog running in a field",
        "a dog running in the snow",
        "a brown dog running in a park",
    ]
    others = [
        "a man in a red shirt",
        "two children in a park",
        "a cat in the snow",
        "a horse in a field",
    ]
    references = [[words(caption) for caption in spoken], *([words(caption)] for caption in others)]
    captions = [words("a dog running in a"), words("a dog running in the snow")]
    without = CiderD(ReferenceNgrams(references)).score_each([0, 0], captions)
    rewards = Reward(references, {"CIDEr": 1})([0, 0], captions)
    assert without[0] > without[1]
    assert rewards[0] < rewards[1]


def test_captions_without_words_and_of_words_never_seen_earn_nothing():
    reward = Reward(
        [[words("a dog runs fast")], [words("two cats sit")]],
        {"CIDEr": 1, "ROUGE_L": 1, "METEOR": 1},
    )
    assert reward([0, 1], [[], ["zebra"]]) == pytest.approx([0, 0])


@pytest.mark.data
@pytest.mark.slow
def test_the_processor_time_of_a_batch_is_printed(research_data):
    spoken = load_references(research_data / "flickr8k" / "captions_train.json").values()
    references = [[tokenize(caption) for caption in captions] for captions in spoken]
    rng = random.Random(0)
    images = [image for image in rng.sample(range(len(references)), 64) for _ in range(5)]
    captions = [rng.choice(references[image + rng.choice([0, 1]) - 1]) for image in images]
    for name in ("CIDEr", "Bleu_4", "ROUGE_L", "METEOR"):
        start = time.process_time()
        reward = Reward(references, {name: 1})
        built = time.process_time()
        rounds = 5
        for _ in range(rounds):
            reward(images, captions)
        each = (time.process_time() - built) / rounds
        print(
            f"\n{name}: {built - start:.2f} s for the split, "
            f"then {1000 * each:.1f} ms for {len(images)} captions"
        )
