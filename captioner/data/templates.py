"""Dialogues and reports from templates: small tasks in which a model must read the whole source.

A template has slots, such as {place}. All slots of a source and its target are filled alike.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

COUNTS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_LISTS = {
    "name": "Ada Alan Anna Ben Carla Clara David Elena Emma Felix Grace Hugo Ida Jonas Kofi Lena "
    "Leo Lucy Maria Marta Mei Nadia Noah Omar Paul Priya Rosa Sam Sofia Tara Tom Yuki",
    "surname": "Adler Bauer Costa Diaz Evans Fischer Garcia Hughes Ito Jensen Khan Lopez Moreau "
    "Novak Okafor Petrov Quinn Rossi Silva Tanaka",
    "place": "Athens Berlin Bern Cairo Delhi Dublin Geneva Kyoto Lagos Lima Lisbon London Lyon "
    "Madrid Oslo Paris Porto Prague Quito Rome Seoul Tokyo Turin Vienna Warsaw Zagreb",
    "colour": "black blue brown green grey pink red white yellow",
    "animal": "bird cat dog fish horse mouse parrot rabbit snake turtle",
    "thing": "bag bike boat car coat hat kite lamp phone shirt table",
    "fruit": "apples bananas cherries figs lemons melons oranges peaches pears plums",
    "instrument": "cello drums flute guitar harp piano trumpet violin",
    "hour": "five six seven eight nine ten",
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "team": "Bears Eagles Foxes Hawks Lions Panthers Sharks Tigers Wolves",
    "shop": "bakery bookshop cinema museum restaurant school theatre",
    "building": "bank barn church factory hotel library mill station",
    "obstacle": "bear bus cow lorry rock tree",
    "weather": "cloudy foggy rainy snowy stormy sunny windy",
    "crowd": "200 300 400 500 600",
}
VALUES = {slot: words.split() for slot, words in _LISTS.items()}
GREETINGS = ("", "", "", "Hello!", "Hi!", "Good morning!", "Good evening!")


class Fact(NamedTuple):
    """What a person can say in a dialogue: its wordings, and questions about it with answers."""

    says: tuple[str, ...]
    asks: tuple[tuple[str, str], ...]  # question, answer
    unsaid: str  # the answer to a question about it if the person did not say it


FACTS = {
    "name": Fact(
        ("My name is {name}.", "I am {name}.", "My friends call me {name}."),
        (("What is my name?", "Your name is {name}."), ("Who am I?", "You are {name}.")),
        "You did not tell me your name.",
    ),
    "home": Fact(
        ("I live in {place}.", "My home is in {place}.", "I moved to {place} last year."),
        (("Where do I live?", "You live in {place}."), ("Where is my home?", "It is in {place}.")),
        "You did not tell me where you live.",
    ),
    "pet": Fact(
        ("I have a {coat} {animal}.", "A {coat} {animal} lives with me."),
        (
            ("Which pet do I have?", "You have a {coat} {animal}."),
            ("Which colour is my pet?", "Your {animal} is {coat}."),
        ),
        "You did not tell me about a pet.",
    ),
    "thing": Fact(
        ("I bought a {colour} {thing}.", "My new {thing} is {colour}."),
        (
            ("What did I buy?", "You bought a {colour} {thing}."),
            ("Which colour is the new thing?", "Your new {thing} is {colour}."),
        ),
        "You did not tell me about a new thing.",
    ),
    "fruit": Fact(
        ("I had {many} {fruit} and ate {eaten}.", "Of my {many} {fruit} I ate {eaten}."),
        (
            ("How much fruit is left?", "You have {rest} {fruit} left."),
            ("How much did I eat?", "You ate {eaten} of your {many} {fruit}."),
        ),
        "You did not tell me about fruit.",
    ),
    "music": Fact(
        ("My friend {friend} plays the {instrument}.", "{friend} taught me the {instrument}."),
        (
            ("Which friend likes music?", "{friend} plays the {instrument}."),
            ("Which instrument did I talk about?", "The {instrument}, which {friend} plays."),
        ),
        "You did not tell me about music.",
    ),
    "day": Fact(
        ("On {day} I get up at {hour}.", "I get up at {hour} on {day}."),
        (("When do I get up?", "You get up at {hour} on {day}."),),
        "You did not tell me when you get up.",
    ),
}
UNSAID_SHARE = 0.1  # of the dialogues, which ask about something that was not said


class Report(NamedTuple):
    """The wordings of each sentence of a report, where "" leaves the sentence out; its summary."""

    sentences: tuple[tuple[str, ...], ...]
    summary: str


REPORTS = (
    Report(
        (
            (
                "On {day} {team} played against {rival} in {place}.",
                "{team} met {rival} in {place} on {day}.",
            ),
            ("", "{crowd} people watched the match.", "It rained until the end."),
            (
                "{winner} scored {high} goals, and {loser} scored {low}.",
                "There were {low} goals for {loser} and {high} for {winner}.",
            ),
            ("", "{person} scored the first goal.", "The coach praised {person} afterwards."),
        ),
        "{winner} beat {loser} in {place} by {high} to {low}.",
    ),
    Report(
        (
            (
                "The train from {place} to {other} stopped on {day}.",
                "On {day} many people waited for the train from {place} to {other}.",
            ),
            (
                "A {obstacle} blocked the track for {high} hours.",
                "It took {high} hours to remove a {obstacle} from the track.",
            ),
            ("", "{person} had to take a taxi.", "There was free coffee for {low} hours."),
        ),
        "A {obstacle} delayed the train from {place} to {other} by {high} hours.",
    ),
    Report(
        (
            (
                "{person} opened a {shop} in {place} on {day}.",
                "On {day} a {shop} of {person} opened in {place}.",
            ),
            ("", "{crowd} guests came to see it.", "The mayor cut a {colour} ribbon."),
            ("It stands where the old {building} was.", "The house was once a {building}."),
            ("", "It is open until {hour}.", "{friend} works there, too."),
        ),
        "{person} opened a {shop} in the old {building} of {place}.",
    ),
    Report(
        (
            (
                "A fire broke out in a {building} in {place} on {day}.",
                "On {day} smoke rose from a {building} in {place}.",
            ),
            ("", "It began after {hour}.", "The street was closed until {hour}."),
            (
                "{high} people were brought out by {person}.",
                "{person} led {high} people to safety.",
            ),
            ("", "A {colour} {animal} was found, too.", "It took {low} hours to put it out."),
        ),
        "{person} saved {high} people from a fire in a {building} in {place}.",
    ),
    Report(
        (
            (
                "{day} morning was {before} in {place}.",
                "{place} had a {before} morning on {day}.",
            ),
            ("By {hour} in the evening it was {after}.", "Later the day became {after}."),
            ("", "{person} had left the {thing} at home.", "{friend} had expected it."),
        ),
        "On {day} the weather in {place} turned from {before} to {after}.",
    ),
)


def dialogue(rng: random.Random) -> tuple[str, str]:
    """Return two or three facts with a question, and its answer."""
    slots = _draw(rng)
    said = rng.sample(sorted(FACTS), rng.choice((2, 3)))
    question, answer = rng.choice(FACTS[rng.choice(said)].asks)
    if rng.random() < UNSAID_SHARE:
        unsaid = FACTS[rng.choice(sorted(FACTS.keys() - said))]
        question, answer = rng.choice(unsaid.asks)[0], unsaid.unsaid
    sentences = [rng.choice(GREETINGS), *(rng.choice(FACTS[fact].says) for fact in said), question]
    return _fill(sentences, slots), _fill([answer], slots)


def report(rng: random.Random) -> tuple[str, str]:
    """Return a report and its summary."""
    slots = _draw(rng)
    template = rng.choice(REPORTS)
    sentences = [rng.choice(wordings) for wordings in template.sentences]
    return _fill(sentences, slots), _fill([template.summary], slots)


def _draw(rng: random.Random) -> dict[str, str]:
    """Return a value for every slot."""
    slots = {slot: rng.choice(values) for slot, values in VALUES.items()}
    slots["coat"] = rng.choice(("black", "brown", "grey", "white"))
    slots["friend"] = rng.choice(VALUES["name"])
    slots["person"] = f"{slots['name']} {slots['surname']}"
    slots["place"], slots["other"] = rng.sample(VALUES["place"], 2)
    slots["before"], slots["after"] = rng.sample(VALUES["weather"], 2)
    teams = [f"the {team}" for team in rng.sample(VALUES["team"], 2)]
    slots["team"], slots["rival"] = teams
    slots["winner"], slots["loser"] = rng.sample(teams, 2)
    slots["low"], slots["high"] = (COUNTS[i] for i in sorted(rng.sample(range(len(COUNTS)), 2)))
    # many = eaten + rest, where each is at least two
    eaten = rng.randint(2, 8)
    rest = rng.randint(2, 10 - eaten)
    numbers = {"many": eaten + rest, "eaten": eaten, "rest": rest}
    return slots | {slot: COUNTS[number - 2] for slot, number in numbers.items()}


def _fill(sentences: Sequence[str], slots: Mapping[str, str]) -> str:
    """Join the sentences that are not empty, each with a capital letter."""
    filled = (sentence.format_map(slots) for sentence in sentences if sentence)
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in filled)
