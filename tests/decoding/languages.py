"""Languages small enough to compute captions by hand, as step functions for every search."""

import torch

BOS, EOS, A, B, C = range(5)


def language(table):
    """Return a step whose next token depends on the last one only.

    Its state sums the tokens so far, which shows whether a search keeps rows and states together.
    """
    probabilities = torch.zeros(5, 5)
    for word, following in table.items():
        for other, probability in following.items():
            probabilities[word, other] = probability

    def step(words, state):
        return probabilities[words].log(), (state[0] + words.unsqueeze(1),)

    return step


def random_step(seed, vocabulary=5, spread=1.0):
    """Return a step whose next token depends on all tokens before it, through a state."""
    generator = torch.Generator().manual_seed(seed)
    table = spread * torch.randn(997, vocabulary, generator=generator)
    table[:, BOS] = -torch.inf

    def step(words, state):
        history = (state[0] * 31 + words.unsqueeze(1) + 1) % 997
        return table[history.squeeze(1)].log_softmax(dim=1), (history,)

    return step


def start(images):
    """Return the initial state of `images` images, each with a language of its own."""
    return (torch.arange(images).unsqueeze(1) * 7,)


def own_score(step, image, words):
    """Return the log-probability of a caption under the language itself."""
    state, total, previous = (start(image + 1)[0][image:],), 0.0, BOS
    for word in [*words, EOS]:
        log_probs, state = step(torch.tensor([previous]), state)
        total, previous = total + float(log_probs[0, word]), word
    return total
