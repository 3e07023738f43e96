"""A whole image captioner in one file: "Show and tell" (Vinyals et al. 2015), a CNN and an LSTM.

Train it on captions in COCO's format. `captioner train configs/shapes.yaml` draws some to try:

    python examples/minimal.py data/shapes/captions_train.json data/shapes/train

Letters in shapes: N captions, each with its own image; T tokens, from <bos> to <eos>; S image size;
C channels of the CNN's last map; E embedding size; H hidden size; V vocabulary size.
"""

import json
import re
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import models, transforms

SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")
PAD, BOS, EOS, UNK = range(4)
State = tuple[Tensor, Tensor]  # of the LSTM: hidden state and cell, (N, H) each


class Captioner(nn.Module):
    """The CNN encodes an image as one vector; the LSTM decodes it to a caption, token by token."""

    def __init__(
        self, vocab_size: int, cnn: models.ResNet, embed_size: int, hidden_size: int, dropout: float
    ) -> None:
        super().__init__()
        self.initial = nn.Linear(cnn.fc.in_features, 2 * hidden_size)
        self.cnn = cnn
        self.cnn.fc = nn.Identity()  # no classifier: the features are the mean of the last map
        self.embedding = nn.Embedding(vocab_size, embed_size)
        self.lstm = nn.LSTMCell(embed_size, hidden_size)
        self.output = nn.Linear(hidden_size, vocab_size)
        self.dropout = nn.Dropout(dropout)

    def encode(self, images: Tensor) -> Tensor:
        """Return the features (N, C) of images (N, 3, S, S)."""
        return self.cnn(images)

    def init_state(self, features: Tensor) -> State:
        """Return the initial state, an affine map of the features (Xu et al. 2015, 3.1.2)."""
        return self.initial(features).chunk(2, dim=1)  # 2 times (N, H)

    def forward(self, features: Tensor, token_ids: Tensor) -> Tensor:
        """Return the logits (N, T-1, V) of each next token, given the true tokens before it."""
        state = self.init_state(features)
        embedded = self.dropout(self.embedding(token_ids[:, :-1]))  # (N, T-1, E)
        outputs = []
        for inputs in embedded.unbind(dim=1):  # (N, E)
            state = self.lstm(inputs, state)
            outputs.append(state[0])
        hidden = torch.stack(outputs, dim=1)  # (N, T-1, H)
        return self.output(self.dropout(hidden))

    def loss(self, features: Tensor, token_ids: Tensor) -> Tensor:
        """Return the mean cross-entropy of a token (teacher forcing); padding is masked out."""
        logits = self(features, token_ids).flatten(0, 1)  # (N * (T-1), V)
        targets = token_ids[:, 1:].flatten()  # (N * (T-1),)
        return nn.functional.cross_entropy(logits, targets, ignore_index=PAD)

    def step(self, token_id: int, state: State) -> tuple[Tensor, State]:
        """Return the log-probabilities (V,) of the next token of one caption, and the new state."""
        embedded = self.embedding(torch.tensor([token_id], device=state[0].device))  # (1, E)
        state = self.lstm(embedded, state)
        log_probs = self.output(state[0])[0].float().log_softmax(dim=0)  # (V,)
        log_probs[[PAD, BOS, UNK]] = -torch.inf  # never part of a caption
        return log_probs, state


@torch.inference_mode()
def greedy_search(model: Captioner, features: Tensor, max_length: int = 20) -> list[int]:
    """Return a caption of features (1, C): the most probable token at each step, until <eos>."""
    token_ids, state = [BOS], model.init_state(features)
    while token_ids[-1] != EOS and len(token_ids) <= max_length:
        log_probs, state = model.step(token_ids[-1], state)
        token_ids.append(int(log_probs.argmax()))
    return [token_id for token_id in token_ids if token_id not in (BOS, EOS)]


class Beam(NamedTuple):
    """The beginning of a caption."""

    token_ids: list[int]  # from <bos> on
    log_prob: float  # of these tokens, summed
    state: State  # before the last of them


@torch.inference_mode()
def beam_search(
    model: Captioner, features: Tensor, max_length: int = 20, num_beams: int = 3
) -> list[int]:
    """Return the best caption of features (1, C) that `num_beams` beams find.

    A step extends each beam by its most probable tokens and keeps the best extensions of all beams.
    A beam that reaches <eos> is finished, and the search continues with one beam fewer. The best is
    the one with the highest mean log-probability of a token; the sum would favour short captions.
    """
    beams, finished = [Beam([BOS], 0.0, model.init_state(features))], []
    for length in range(max_length + 1):
        extended = []
        for beam in beams:
            log_probs, state = model.step(beam.token_ids[-1], beam.state)
            best_ids = log_probs.topk(num_beams).indices.tolist()
            for token_id in best_ids if length < max_length else [EOS]:
                log_prob = beam.log_prob + log_probs[token_id].item()
                extended.append(Beam([*beam.token_ids, token_id], log_prob, state))
        extended.sort(key=lambda beam: beam.log_prob, reverse=True)
        kept = extended[: num_beams - len(finished)]
        finished += [beam for beam in kept if beam.token_ids[-1] == EOS]
        beams = [beam for beam in kept if beam.token_ids[-1] != EOS]
    best = max(finished, key=lambda beam: beam.log_prob / (len(beam.token_ids) - 1))
    return best.token_ids[1:-1]


def read_coco(annotations: Path, folder: Path) -> dict[Path, list[list[str]]]:
    """Return the captions of each image file, split into lower-case words without punctuation."""
    content = json.loads(annotations.read_text(encoding="utf-8"))
    paths = {image["id"]: folder / image["file_name"] for image in content["images"]}
    captions: dict[Path, list[list[str]]] = {path: [] for path in paths.values()}
    for annotation in content["annotations"]:
        words = re.findall(r"[a-z0-9']+", annotation["caption"].lower())
        captions[paths[annotation["image_id"]]].append(words)
    return captions


def build_vocabulary(captions: list[list[str]], min_count: int = 2) -> dict[str, int]:
    """Return the id of each word that occurs at least `min_count` times."""
    counts = Counter(word for words in captions for word in words)
    frequent = [word for word, count in counts.most_common() if count >= min_count]
    return {word: token_id for token_id, word in enumerate([*SPECIALS, *frequent])}


def load_image(path: Path, size: int) -> Tensor:
    """Return an image as a square (3, size, size), normalised with the statistics of ImageNet."""
    with Image.open(path) as image:
        square = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    pixels = transforms.functional.to_tensor(square)  # 0 to 1
    return transforms.functional.normalize(pixels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def collate(pairs: list, vocabulary: dict[str, int], size: int) -> tuple[Tensor, Tensor]:
    """Return the images (N, 3, S, S) and token ids (N, T) of N pairs of a path and words."""
    images = torch.stack([load_image(path, size) for path, _ in pairs])
    word_ids = [[vocabulary.get(word, UNK) for word in words] for _, words in pairs]
    captions = [torch.tensor([BOS, *token_ids, EOS]) for token_ids in word_ids]
    return images, nn.utils.rnn.pad_sequence(captions, batch_first=True, padding_value=PAD)


def train(model: Captioner, loader: DataLoader, epochs: int) -> None:
    """Train on each caption once an epoch, and print the loss of the last batch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(1, epochs + 1):
        for images, token_ids in loader:
            loss = model.loss(model.encode(images), token_ids)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), max_norm=5.0)
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.2f}")


def main() -> None:
    """Train a captioner, then caption five images that it was not trained on."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("annotations", type=Path, help="file in COCO's format")
    parser.add_argument("images", type=Path, help="folder of its images")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--pretrained", action="store_true", help="CNN of ImageNet, frozen")
    options = parser.parse_args()
    captions = read_coco(options.annotations, options.images)
    paths = list(captions)
    pairs = [(path, words) for path in paths[:-5] for words in captions[path]]
    vocabulary = build_vocabulary([words for _, words in pairs])
    size = 224 if options.pretrained else 64
    batch = partial(collate, vocabulary=vocabulary, size=size)
    loader = DataLoader(pairs, batch_size=32, shuffle=True, collate_fn=batch)
    cnn = models.resnet18(weights="DEFAULT" if options.pretrained else None)
    cnn.requires_grad_(not options.pretrained)
    model = Captioner(len(vocabulary), cnn, embed_size=256, hidden_size=256, dropout=0.1)
    train(model, loader, options.epochs)
    model.eval()
    for path in paths[-5:]:
        features = model.encode(load_image(path, size).unsqueeze(0))  # (1, C)
        for search in (greedy_search, beam_search):
            caption = " ".join(list(vocabulary)[token_id] for token_id in search(model, features))
            print(f"{path.name} {search.__name__}: {caption}")


if __name__ == "__main__":
    main()
