"""The plain translator computes what the library does, and the texts are as long as real ones."""

import statistics
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import benchmark, plain_translator
from benchmarks.plain_translator import PlainTranslator
from benchmarks.synthetic import Setup
from benchmarks.texts import TextSetup, build_plain, plain_source
from benchmarks.translation import WORKLOADS, max_length
from captioner.data.batching import pad
from captioner.errors import UsageError
from captioner.inference.translator import Translator
from captioner.text.tokenizer import BOS, EOS, PAD, SPECIALS, UNK
from captioner.training.objectives import TeacherForcing
from captioner.types import Batch


@pytest.fixture
def text(tmp_path):
    """Return tiny sizes, without dropout: the two sides would draw different random numbers."""
    return TextSetup(
        Setup(tmp_path),
        source_vocab_size=50,
        vocab_size=60,
        embed_size=12,
        hidden_size=16,
        dropout=0.0,
        pairs=24,
        batch_size=24,
        translated=20,
    )


@pytest.fixture
def en_de(tmp_path):
    """Write two files of four lines, and return their paths."""
    source, target = tmp_path / "x.en", tmp_path / "x.de"
    source.write_text("A dog runs.\nA cat sits.\nThe dog sits.\nThe cat runs!\n", encoding="utf-8")
    target.write_text(
        "Ein Hund rennt.\nEine Katze sitzt.\nDer Hund sitzt.\nDie Katze rennt!\n", encoding="utf-8"
    )
    return source, target


def plain_batch(pairs, model):
    """Return source (N, P), lengths (N,) and target (N, T), padded as the plain translator pads."""
    sources, targets = zip(*pairs, strict=True)
    source, _ = pad([plain_source(ids, model) for ids in sources])
    return source, torch.tensor([len(ids) for ids in sources]), pad(targets)[0]


def test_constants_are_those_of_the_library():
    own = plain_translator
    assert (own.PAD, own.BOS, own.EOS, own.UNK) == (PAD, BOS, EOS, UNK)


@pytest.mark.parametrize("attention", [False, True])
def test_both_sides_give_the_same_log_probabilities_to_sentences_of_different_lengths(
    attention, text
):
    texts = text.texts(24)
    pairs, model = texts.token_ids(), text.build_model(texts, attention=attention).eval()
    sources, targets = (pad(side) for side in zip(*pairs, strict=True))
    rows = torch.arange(len(pairs))
    batch = Batch(sources[0], *targets, rows, rows)
    assert not batch.target_mask.all()
    assert not sources[1].all()
    source, lengths, target = plain_batch(pairs, model)
    with torch.no_grad():
        ours = model.log_probs(batch, model.init_state(batch.source))
        logits = build_plain(model).eval()(source, lengths, target)  # (N, T-1, V)
    plain = logits.log_softmax(dim=2).gather(2, target[:, 1:].unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(plain[batch.target_mask], ours, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["train-text", "train-attention"])
def test_both_sides_have_the_same_losses_in_three_steps(name, text):
    workload = WORKLOADS[name](text)
    ours = [loss for _ in range(3) for loss in workload.ours()]
    baseline = [loss for _ in range(3) for loss in workload.baseline()]
    assert ours == pytest.approx(baseline, abs=1e-4)
    assert len(ours) == 3
    assert ours[2] < ours[0]


@pytest.mark.parametrize("name", ["train-text", "train-attention"])
def test_the_items_of_training_are_source_and_target_tokens_without_padding(name, text):
    words = [(source.split(), target.split()) for source, target in text.texts(24).pairs]
    expected = sum(len(source) + len(target) + 1 for source, target in words)  # with <eos>
    assert WORKLOADS[name](text).items == expected


def test_an_epoch_of_both_sides_has_the_same_number_of_steps(text):
    workload = WORKLOADS["train-text"](replace(text, batch_size=8))
    assert len(workload.ours()) == len(workload.baseline()) == 3


def test_only_our_batches_hold_texts_of_similar_length(text, monkeypatch):
    text = replace(text, pairs=64, batch_size=8)
    ours, baseline = [], []
    forward, loss = TeacherForcing.forward, PlainTranslator.loss
    monkeypatch.setattr(
        TeacherForcing,
        "forward",
        lambda self, batch, progress: ours.append(batch.source) or forward(self, batch, progress),
    )
    monkeypatch.setattr(
        PlainTranslator,
        "loss",
        lambda self, *given: baseline.append(given[0]) or loss(self, *given),
    )
    workload = WORKLOADS["train-text"](text)
    for side in (workload.ours, workload.baseline, workload.baseline):
        side()
    padding = [sum(int((source == PAD).sum()) for source in side) for side in (ours, baseline)]
    assert padding[0] < padding[1] / 2 / 5  # of one epoch, of two epochs
    first, second = baseline[:8], baseline[8:]
    assert [source.tolist() for source in first] != [source.tolist() for source in second]


def test_the_plain_translator_calls_its_decoder_with_every_token_padding_included(text):
    texts = text.texts(24)
    model = text.build_model(texts, attention=True)
    plain = build_plain(model)
    batch = plain_batch(texts.token_ids(), model)
    calls = []
    plain.decoder.register_forward_pre_hook(lambda _, given: calls.append(given[0]))
    plain.loss(*batch)
    torch.testing.assert_close(torch.stack(calls, dim=1), batch[2][:, :-1])


@pytest.mark.parametrize("beam", [1, 5])
def test_both_sides_translate_texts_to_the_same_texts(beam, text):
    workload = WORKLOADS["translate"](replace(text, beam=beam))
    assert workload.baseline() == workload.ours()
    assert len(workload.ours()) == workload.items == 20


@pytest.mark.parametrize("attention", [False, True])
def test_both_beam_searches_rank_translations_with_the_same_length_normalisation(attention, text):
    texts = text.texts(20)
    model = text.build_model(texts, attention=attention).eval()
    with torch.no_grad():
        model.decoder.embedding.weight.mul_(8)  # tied: less uniform than random weights
        model.decoder.output.bias[EOS] += 2  # short and long translations compete
        model.decoder.output.bias[UNK] += 9  # neither side generates it
    translator = Translator(
        [model],
        texts.vocabulary,
        text.config(attention=attention),
        source_vocabulary=texts.source_vocabulary,
        device="cpu",
    )
    plain, found = build_plain(model).eval(), []
    for alpha in (0.0, 2.0):
        decoding = {"beam": 5, "length_alpha": alpha, "max_length": 8}
        settings = translator.decoding_config(decoding)
        ours = translator.translate([source for source, _ in texts.pairs], decoding=decoding)
        baseline = [
            plain_translator.beam_search(
                plain,
                plain_source(source, model),
                num_beams=5,
                max_length=max_length(source, settings),
                length_alpha=alpha,
            )
            for source, _ in texts.token_ids()
        ]
        found.append([[word.text for word in each.words] for each in ours])
        assert [texts.vocabulary.decode(ids) for ids in baseline] == found[-1]
    assert found[0] != found[1]


def test_translations_end_after_about_twelve_words_as_those_of_a_trained_model(text):
    workload = WORKLOADS["translate"](replace(text, translated=100))
    lengths = [len(translation.split()) for translation in workload.ours()]
    assert statistics.mean(lengths) == pytest.approx(12, abs=1.5)
    assert 1 < statistics.stdev(lengths) < 4


def test_random_texts_are_as_long_as_those_of_multi30k(text):
    pairs = text.texts(5000).pairs
    sources, targets = ([len(each.split()) for each in side] for side in zip(*pairs, strict=True))
    assert statistics.mean(sources) == pytest.approx(13.0, abs=0.2)
    assert statistics.stdev(sources) == pytest.approx(4.0, abs=0.2)
    assert statistics.mean(targets) == pytest.approx(12.4, abs=0.2)
    assert statistics.correlation(sources, targets) == pytest.approx(0.87, abs=0.02)
    # those of a batch of 128 are padded to 28 on average
    longest = [max(targets[start : start + 128]) for start in range(0, 4992, 128)]
    assert statistics.mean(longest) == pytest.approx(28, abs=1.5)


def test_texts_of_files_are_drawn_from_all_lines_and_their_rare_words_are_unknown(en_de, text):
    source, target = en_de
    texts = replace(text, source=source, target=target).texts(3)
    lines = zip(*(path.read_text(encoding="utf-8").splitlines() for path in en_de), strict=True)
    assert len({*texts.pairs}) == 3
    assert {*texts.pairs} < {*lines}
    words = {*texts.source_vocabulary.words} - {*SPECIALS}
    assert words == {"a", "the", "dog", "cat", "runs", "sits", "."}  # "!" occurs once
    assert {*texts.vocabulary.words} - {*SPECIALS} == {
        *("hund", "katze", "rennt", "sitzt", "."),  # each article occurs once
    }


def test_all_lines_are_used_where_more_are_wanted(en_de, text):
    source, target = en_de
    workload = WORKLOADS["translate"](replace(text, source=source, target=target))
    assert workload.baseline() == workload.ours()
    assert workload.items == 4


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ([None, "x.de"], "target needs source: name both files"),
        (["x.en", None], "holds one side only: also name target"),
        (["x.en", "short.de"], "4"),
    ],
)
def test_files_that_do_not_fit_are_an_error(sides, message, en_de, tmp_path):
    (tmp_path / "short.de").write_text("Ein Hund rennt.\n", encoding="utf-8")
    options = [
        part
        for option, name in zip(("--source", "--target"), sides, strict=True)
        if name
        for part in (option, str(tmp_path / name))
    ]
    answer = CliRunner().invoke(benchmark.app, ["--only", "translate", "--rounds", "1", *options])
    assert isinstance(answer.exception, UsageError)
    assert message in str(answer.exception)
