"""The `Captioner`: captions, scores, explanations, ensembles, and the errors of wrong arguments."""

import math
import random
from statistics import fmean

import pytest
import torch
from PIL import Image

from captioner import Caption, Captioner
from captioner.config.schema import ConfidenceConfig
from captioner.data.images import read_image
from captioner.errors import CaptionerError, ImageError, UsageError
from captioner.models.build import build_model
from captioner.text.tokenizer import BOS


@pytest.fixture(scope="module")
def captioner(tiny_model):
    return Captioner.from_pretrained(tiny_model, device="cpu")


def test_one_image_gives_a_caption_and_many_give_a_list(captioner, photo):
    caption = captioner.caption(photo)
    assert isinstance(caption, Caption)
    assert caption.text
    assert caption.log_prob < 0
    assert [one.text for one in captioner.caption([photo, photo])] == [caption.text, caption.text]
    assert captioner.caption([]) == []


def test_path_text_bytes_pillow_and_tensor_of_one_image_give_one_caption(captioner, photo):
    image = Image.open(photo).convert("RGB")
    pixels = (
        torch.tensor(list(image.tobytes()), dtype=torch.uint8)
        .view(image.height, image.width, 3)
        .permute(2, 0, 1)
    )
    forms = [photo, str(photo), photo.read_bytes(), image, pixels, pixels / 255]
    assert len({captioner.caption(form) for form in forms}) == 1
    assert captioner.caption(torch.stack([pixels, pixels])) == captioner.caption([photo, photo])


DECODINGS = {
    "greedy": {"beam": 1},
    "beam": {"beam": 3},
    "n best": {"captions": 4},
    "diverse": {"beam": 4, "groups": 2, "captions": 4},
    "sample": {"method": "sample", "captions": 3, "top_p": 0.9},
    "rules": {
        "require": ["red"],
        "forbid": ["blue"],
        "no_repeat_ngram": 2,
        "prefix": "a",
        "min_length": 4,
    },
}


@pytest.mark.parametrize("decoding", DECODINGS.values(), ids=DECODINGS)
def test_captions_do_not_depend_on_the_batch_size(captioner, shapes, decoding):
    photos = sorted((shapes / "train").iterdir())[:7]
    one, many = (captioner.caption(photos, decoding=decoding, batch_size=size) for size in (1, 4))
    for alone, batch in zip(one, many, strict=True):
        assert [each.text for each in (alone, *alone.others)] == [
            each.text for each in (batch, *batch.others)
        ]
        assert alone.log_prob == pytest.approx(batch.log_prob, abs=1e-4)


@pytest.mark.parametrize("decoding", DECODINGS.values(), ids=DECODINGS)
def test_every_log_probability_is_the_models_own_score_of_that_caption(captioner, photo, decoding):
    best = captioner.caption(photo, decoding=decoding)
    captions = [best, *best.others]
    assert len(captions) == decoding.get("captions", 1)
    [scored] = captioner.score([photo], [[caption.text for caption in captions]])
    for caption, own in zip(captions, scored, strict=True):
        assert caption.log_prob == pytest.approx(own.log_prob, abs=1e-4)
        assert [word.text for word in caption.words] == [word.text for word in own.words]
        assert [word.log_prob for word in caption.words] == pytest.approx(
            [word.log_prob for word in own.words], abs=1e-4
        )


def test_captions_follow_the_rules_of_their_decoding_settings(captioner, shapes):
    photos = sorted((shapes / "train").iterdir())[:7]
    for caption in captioner.caption(photos, decoding=DECODINGS["rules"]):
        words = caption.text.split()
        assert words[0] == "a"
        assert "red" in words
        assert "blue" not in words
        assert len(words) >= 4


def test_the_same_seed_samples_the_same_captions_and_another_seed_others(captioner, shapes):
    photos = sorted((shapes / "train").iterdir())[:4]
    first, again, other = (
        [
            caption.text
            for caption in captioner.caption(photos, decoding={"method": "sample", "seed": seed})
        ]
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_a_photo_gets_the_same_sampled_caption_in_any_batch(captioner, shapes):
    photos = sorted((shapes / "train").iterdir())[:4]
    batch = captioner.caption(photos, decoding={"method": "sample"})
    assert [captioner.caption(photo, decoding={"method": "sample"}).text for photo in photos] == [
        caption.text for caption in batch
    ]


@pytest.mark.parametrize(
    ("decoding", "message"),
    [
        ({"beem": 3}, "did you mean 'beam'"),
        ({"length_norm": "wo"}, "'none', 'average', 'wu'"),
        ({"min_length": 9, "max_length": 5}, r"min_length \(9\) is above max_length \(5\)"),
        ({"require": ["rad"]}, "require: 'rad' is not in the model's vocabulary: did you mean red"),
        ({"require": ["red circle"]}, "'red circle' is not one word"),
        ({"require": ["red"], "forbid": ["red"]}, "both required and forbidden"),
        ({"prefix": "a red circle", "forbid": ["red"]}, "'red' is forbidden"),
        ({"prefix": "a red circle", "require": ["blue"], "max_length": 3}, "no room"),
        ({"min_confidence": 0.5}, "captioner calibrate"),
    ],
)
def test_invalid_decoding_settings_are_errors_that_name_the_cause(
    captioner, photo, decoding, message
):
    with pytest.raises(UsageError, match=message):
        captioner.caption(photo, decoding=decoding)


def test_forbidding_a_word_that_is_not_in_the_vocabulary_is_no_error(captioner, photo):
    assert captioner.caption(photo, decoding={"forbid": ["zeppelin"]}) == captioner.caption(photo)


@pytest.fixture(scope="module")
def other_model(tiny_model, tmp_path_factory):
    """A model of the same vocabulary, with other weights."""
    torch.manual_seed(4)
    loaded = Captioner.from_pretrained(tiny_model, device="cpu")
    model = build_model(loaded.config, vocab_size=len(loaded.vocabulary))
    folder = tmp_path_factory.mktemp("other") / "best"
    Captioner([model], loaded.vocabulary, loaded.config, device="cpu").save_pretrained(folder)
    return folder


def test_an_ensemble_averages_the_probabilities_of_its_models(tiny_model, other_model, photo):
    both = Captioner.from_pretrained(tiny_model, other_model, device="cpu")
    caption = both.caption(photo)
    single = [
        Captioner.from_pretrained(folder, device="cpu") for folder in (tiny_model, other_model)
    ]
    scored = [next(one.score([photo], [[caption.text]]))[0].words for one in single]
    for word, first, second in zip(caption.words, *scored, strict=True):
        mean = (math.exp(first.log_prob) + math.exp(second.log_prob)) / 2
        assert math.exp(word.log_prob) == pytest.approx(mean, rel=1e-4)


def test_an_ensemble_of_a_model_with_itself_is_that_model(tiny_model, captioner, photo):
    twice = Captioner.from_pretrained(tiny_model, tiny_model, device="cpu").caption(photo)
    assert twice.text == captioner.caption(photo).text
    assert twice.log_prob == pytest.approx(captioner.caption(photo).log_prob, abs=1e-4)


def test_an_ensemble_of_models_with_other_preprocessing_or_vocabulary_is_an_error(
    tiny_model, captioner, tmp_path
):
    larger = captioner.config.model_copy(
        update={"encoder": captioner.config.encoder.model_copy(update={"image_size": 64})}
    )
    Captioner(captioner.models, captioner.vocabulary, larger, device="cpu").save_pretrained(
        tmp_path / "larger"
    )
    with pytest.raises(UsageError, match="image_size 64"):
        Captioner.from_pretrained(tiny_model, tmp_path / "larger", device="cpu")
    with pytest.raises(UsageError, match="do not share a vocabulary"):
        Captioner.from_pretrained(tiny_model, "bundled", device="cpu")


def test_a_calibrated_model_reports_confidence_and_abstains_below_min_confidence(captioner, photo):
    calibrated = captioner.config.model_copy(
        update={"confidence": ConfidenceConfig(temperature=2.0, error=0.1, images=9)}
    )
    sure = Captioner(captioner.models, captioner.vocabulary, calibrated, device="cpu")
    caption = sure.caption(photo)
    assert caption.confidence == pytest.approx(
        fmean(math.exp(word.log_prob / 2) for word in caption.words)
    )
    assert captioner.caption(photo).confidence is None
    for wanted in (caption.confidence - 0.01, caption.confidence + 0.01):
        assert sure.caption(photo, decoding={"min_confidence": wanted}).abstained == (
            wanted > caption.confidence
        )


def test_occlusion_maps_hold_the_log_probability_that_a_word_loses_with_a_part_hidden(
    captioner, photo
):
    caption = captioner.caption(photo, explain=True, decoding={"max_length": 4})
    pixels = read_image(photo).resize((32, 32), Image.Resampling.BILINEAR)
    pixels = (
        torch.tensor(list(pixels.tobytes()), dtype=torch.uint8).view(32, 32, 3).permute(2, 0, 1)
    )
    row, column = 2, 5
    hidden = pixels.clone()
    hidden[
        :, round(1.5 * 32 / 7) : round(3.5 * 32 / 7), round(4.5 * 32 / 7) : round(6.5 * 32 / 7)
    ] = torch.tensor([124, 116, 104], dtype=torch.uint8).view(3, 1, 1)
    whole, without = (
        [word.log_prob for word in next(captioner.score([image], [[caption.text]]))[0].words]
        for image in (pixels, hidden)
    )
    lost = [before - after for before, after in zip(whole, without, strict=True)]
    assert [word.heat[row][column] for word in caption.words] == pytest.approx(lost, abs=1e-4)
    assert {(len(word.heat), len(word.heat[0])) for word in caption.words} == {(7, 7)}
    assert caption.explanation == "occlusion"


@pytest.fixture(scope="module")
def attentive(attentive_model):
    return Captioner.from_pretrained(attentive_model, device="cpu")


def maps_of(caption):
    return torch.tensor([word.heat for word in caption.words])  # (words, rows, columns)


@pytest.mark.parametrize("decoding", DECODINGS.values(), ids=DECODINGS)
@torch.no_grad()
def test_attention_maps_hold_the_attention_weights_of_every_word(attentive, photo, decoding):
    caption = attentive.caption(photo, explain=True, decoding=decoding)
    [model] = attentive.models
    pixels = torch.from_numpy(attentive.transform(read_image(photo), random.Random(0)))
    state = model.init_state(pixels.unsqueeze(0))
    token_ids = [attentive.vocabulary.id_of(word.text) for word in caption.words]
    for before, heat in zip([BOS, *token_ids], maps_of(caption), strict=False):
        hidden, _, *context_state = state
        weights = model.decoder.context.attend(hidden[:, -1], context_state).weights
        torch.testing.assert_close(heat, weights.view(2, 2))
        _, state = model.step(torch.tensor([before]), state)
    assert caption.explanation == "attention"


def test_attention_maps_are_the_weights_that_decoding_used(attentive, photo, monkeypatch):
    context, outputs = attentive.models[0].decoder.context, []
    attend = context.attend

    def attend_and_record(hidden, context_state):
        outputs.append(attend(hidden, context_state))
        return outputs[-1]

    monkeypatch.setattr(context, "attend", attend_and_record)
    attentive.caption(photo, decoding={"beam": 1})
    in_decoding = [output.weights.view(2, 2) for output in outputs]
    monkeypatch.undo()
    maps = maps_of(attentive.caption(photo, explain=True, decoding={"beam": 1}))
    torch.testing.assert_close(maps, torch.stack(in_decoding)[: len(maps)])


def test_explaining_by_attention_encodes_no_image_again(attentive, photo, monkeypatch):
    encoded, encode = [], attentive.step_model.encode
    monkeypatch.setattr(
        attentive.step_model, "encode", lambda source: encoded.append(len(source)) or encode(source)
    )
    attentive.caption([photo, photo], explain=True)
    assert encoded == [2]


def test_explaining_changes_no_caption_and_does_not_depend_on_the_batch(attentive, shapes):
    photos = sorted((shapes / "train").iterdir())[:7]
    decoding = {"method": "sample", "temperature": 100}  # captions of several lengths
    batch = attentive.caption(photos, explain=True, decoding=decoding)
    assert len({len(caption.words) for caption in batch}) > 1
    plain = attentive.caption(photos, decoding=decoding)
    for photo, caption, unexplained in zip(photos, batch, plain, strict=True):
        assert (caption.text, caption.log_prob) == (unexplained.text, unexplained.log_prob)
        alone = attentive.caption(photo, explain=True, decoding=decoding)
        torch.testing.assert_close(maps_of(caption), maps_of(alone), atol=1e-4, rtol=1e-4)


def test_an_ensemble_is_explained_by_occlusion_even_if_its_models_have_attention(attentive, photo):
    both = Captioner(attentive.models * 2, attentive.vocabulary, attentive.config, device="cpu")
    caption = both.caption(photo, explain=True, decoding={"max_length": 2})
    assert caption.explanation == "occlusion"
    assert maps_of(caption).shape == (2, 7, 7)


def test_a_caption_is_sure_from_the_threshold_on(captioner, photo):
    def with_threshold(threshold):
        confidence = ConfidenceConfig(temperature=2.0, error=0.1, images=9, threshold=threshold)
        config = captioner.config.model_copy(update={"confidence": confidence})
        model = Captioner(captioner.models, captioner.vocabulary, config, device="cpu")
        return model.caption(photo)

    confidence = with_threshold(None).confidence
    assert with_threshold(None).sure is None
    assert with_threshold(confidence).sure is True
    below = with_threshold(confidence + 1e-6)
    assert below.sure is False
    assert not below.abstained
    assert captioner.caption(photo).sure is None


@pytest.mark.parametrize("fixture", ["captioner", "attentive"])
def test_an_abstained_caption_is_not_explained(fixture, request, shapes):
    one = request.getfixturevalue(fixture)
    config = one.config.model_copy(
        update={"confidence": ConfidenceConfig(temperature=2.0, error=0.1, images=9)}
    )
    sure = Captioner(one.models, one.vocabulary, config, device="cpu")
    photos = sorted((shapes / "train").iterdir())[:5]
    every = sure.caption(photos, explain=True, decoding={"max_length": 3})
    confident = sorted(caption.confidence for caption in every)
    for wanted, shown in ((confident[2] - 1e-6, 3), (1.0, 0)):
        captions = sure.caption(
            photos, explain=True, decoding={"max_length": 3, "min_confidence": wanted}
        )
        assert sum(not caption.abstained for caption in captions) == shown
        for caption, same in zip(captions, every, strict=True):
            if caption.abstained:
                assert caption.explanation is None
                assert all(word.heat is None for word in caption.words)
            else:
                torch.testing.assert_close(maps_of(caption), maps_of(same), atol=1e-4, rtol=1e-4)


def test_a_word_that_is_not_in_the_vocabulary_is_scored_as_unk(captioner, photo):
    [[caption]] = captioner.score([photo], [["a zeppelin"]])
    assert [word.text for word in caption.words] == ["a", "<unk>"]


def test_images_without_captions_and_broken_images_do_not_affect_other_scores(captioner, photo):
    none, broken, [scored] = captioner.score(
        [photo, b"<html>", photo], [[], ["a red circle"], ["a red circle"]]
    )
    assert none == []
    assert isinstance(broken, ImageError)
    assert scored.text == "a red circle"


def test_a_broken_image_does_not_affect_other_captions(captioner, photo):
    first, broken, last = captioner.stream([photo, b"<html>", photo])
    assert first.text == last.text == captioner.caption(photo).text
    assert isinstance(broken, ImageError)
    with pytest.raises(ImageError):
        captioner.caption([photo, b"<html>"])


def test_images_are_read_no_further_ahead_than_a_batch(captioner, photo):
    asked = []

    def endless():
        while True:
            asked.append(photo)
            yield photo

    next(captioner.stream(endless(), batch_size=2))
    assert len(asked) <= 4


def test_a_saved_model_captions_as_before(captioner, photo, tmp_path):
    captioner.save_pretrained(tmp_path / "copy")
    again = Captioner.from_pretrained(tmp_path / "copy", device="cpu")
    assert again.caption(photo) == captioner.caption(photo)
    assert {file.name for file in (tmp_path / "copy").iterdir()} == {
        "config.json",
        "model.safetensors",
        "vocab.json",
        "checksums.json",
    }


def test_half_precision_halves_the_file_and_hardly_changes_the_probability(
    captioner, photo, tmp_path
):
    captioner.save_pretrained(tmp_path / "single")
    captioner.save_pretrained(tmp_path / "half", half=True)
    single, half = (
        (tmp_path / name / "model.safetensors").stat().st_size for name in ("single", "half")
    )
    assert half < 0.51 * single
    near = Captioner.from_pretrained(tmp_path / "half", device="cpu").caption(photo)
    assert near.log_prob == pytest.approx(captioner.caption(photo).log_prob, rel=1e-2)


def test_a_tensor_of_a_wrong_shape_is_an_error(captioner):
    with pytest.raises(ImageError, match=r"has shape \(2, 4, 4\)"):
        captioner.caption(torch.zeros(2, 4, 4))


def test_one_image_or_a_mapping_in_place_of_several_is_an_error(captioner, photo):
    for one in (str(photo), photo.read_bytes(), Image.open(photo), torch.zeros(3, 8, 8)):
        with pytest.raises(UsageError, match="images is one image: give a list"):
            captioner.stream(one)
    with pytest.raises(UsageError, match="images is a mapping"):
        captioner.caption({"image": photo})


def test_a_folder_that_is_no_model_is_an_error_with_a_hint(tmp_path, tiny_model):
    with pytest.raises(CaptionerError, match="is not a model folder"):
        Captioner.from_pretrained(tmp_path)
    with pytest.raises(CaptionerError, match="did you mean"):
        Captioner.from_pretrained(tiny_model.parent)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("vocab.json", b'"a"', b'"b0"', "corrupt"),
        ("config.json", b'"gru"', b'"rnn"', "corrupt"),
        ("model.safetensors", b"", b"x", "corrupt"),
    ],
)
def test_a_changed_model_file_is_reported_as_corrupt(tiny_model, tmp_path, file, old, new, message):
    for source in tiny_model.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(
        content.replace(old, new, 1) if old in content and old else content + b"x"
    )
    with pytest.raises(CaptionerError, match=message):
        Captioner.from_pretrained(tmp_path)


def test_captions_to_score_that_do_not_match_the_images_are_an_error(captioner, photo):
    for captions in (["a red circle"], [["a red circle"], ["a red ring"]], []):
        with pytest.raises(UsageError, match="a list of captions for each image"):
            captioner.score([photo], captions)


def test_invalid_decoding_settings_are_an_error_before_the_first_caption_is_requested(
    captioner, photo
):
    with pytest.raises(UsageError, match="did you mean 'beam'"):
        captioner.stream([photo], decoding={"beem": 1})


def test_one_required_word_need_not_be_a_list(captioner, photo):
    assert "blue" in captioner.caption(photo, decoding={"require": "blue"}).text.split()


def test_an_ensemble_ignores_the_min_confidence_of_its_first_model(captioner, photo, tmp_path):
    decoding = captioner.config.decoding.model_copy(update={"min_confidence": 0.9})
    sure = ConfidenceConfig(temperature=2.0, error=0.1, images=9)
    config = captioner.config.model_copy(update={"confidence": sure, "decoding": decoding})
    Captioner(captioner.models, captioner.vocabulary, config, device="cpu").save_pretrained(
        tmp_path / "sure"
    )
    both = Captioner.from_pretrained(tmp_path / "sure", tmp_path / "sure", device="cpu")
    assert both.caption(photo).text
