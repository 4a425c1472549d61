"""Make the built-in demo data set: generated news sentences in pairs, labelled paraphrase (1) or not (0).

    python benchmarks/make_demo_data.py              writes ftloop/data/demo.jsonl
    python benchmarks/make_demo_data.py FILE         writes another file

The set has the shape of MRPC: two newswire sentences per row, about two thirds of the pairs equivalent. It is generated
rather than downloaded, so the demo needs no network, and the same rows come out on every machine.

A pair is two tellings of one event. All tellings of an event state the same facts, in other words and another order,
with or without side details. In a paraphrase the two sentences agree. In any other pair one of them denies the story or
differs in one fact: another number, place or outcome, or the roles reversed. Both kinds of pair go through the same
tellings, so counting common words says next to nothing about the label.

What a small model learns here within a minute is the denials. They are rare among the paraphrases, so "a denial makes
it no paraphrase" is right for about 86% of the rows, and no comparison of the two sentences is needed for it. The
changed facts do need one, and are there for longer runs and larger models. A good score shows that training works, not
that the model can tell paraphrases.

Names of people, companies, places and teams are made up, and no name serves two splits: remembering them is no help.

Tellings are written in a small notation:

    {firm}           a fact; {other_firm} is a second, different value of the same kind
    [rose|climbed]   wordings that mean the same; an empty one marks a detail that may be left out
    <up/down>        the outcome: the left side if it is true, the right side if not
"""

from __future__ import annotations

import json
import random
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPLIT_SIZES: dict[str, int] = {"train": 560, "validation": 200, "test": 300}


DEMO_FILE = Path(__file__).resolve().parents[1] / "ftloop" / "data" / "demo.jsonl"


PARAPHRASE_SHARE = 0.68


# Of the pairs that are no paraphrases, those in which one sentence denies the story; the others differ in a fact.
DENIAL_SHARE = 0.65


# Of the paraphrases, those in which both sentences deny it: a denial alone does not make the label.
SHARED_DENIAL_SHARE = 0.06


# How often both sentences of a pair use the same telling. A difference costs common words; the pairs that are no
# paraphrases win them back here, or else word overlap alone would give the label away.
SAME_TELLING_SHARE = {0: 0.24, 1: 0.12}


# How often a detail that may be left out is told.
DETAIL_SHARE = 0.2


FIRMS = """
Falcon Foods, Granite Motors, Meadow Systems, Orchid Energy, Beacon Optics, Willow Paper, Cobalt Mining,
Velvet Textiles, Anvil Steel, Pixel Software, Anchor Shipping, Amber Chemicals, Prairie Rail, Clover Dairies,
Magnet Robotics, Shield Insurance, Coral Cosmetics, Hammer Tools, Mirror Media, Cedar Timber, Swallow Aviation,
Pebble Cement, Ribbon Fashion, Spark Electronics, Barrel Brewing, Fern Pharma, Camel Logistics, Saffron Ceramics,
Whistle Telecom, Lantern Hotels
"""


PEOPLE = """
Maria Keller, Thomas Reed, Helen Vargas, Samuel Price, Linda Frost, Peter Lindsay, Rosa Campbell, Daniel Hayes,
Grace Holland, Victor Palmer, Nora Castle, Hugo Brandt, Emma Sullivan, Walter Quinn, Irene Maddox, Felix Dunn,
Clara Hollis, Oscar Vance, Ruth Pierce, Ivan Novak, Julia Avery, Martin Stone, Esther Lowe, Paul Shaw, Teresa Lopez,
Simon Hardy, Olga Fields, Leon Marsh, Diane Osborne, Gregor White
"""


TOWNS = """
Oak Harbor, Port Selwyn, Mill Creek, Castle Rock, Fox Point, Lake Arden, Stone Bridge, West Haven, North Ferry,
Long Meadow, Green Valley, Silver Bay, Ash Grove, Cold Spring, Kings Moor, Red Cliff, Thorn Hill, Bear Island,
White Cross, Elm Park, Deer Lake, Crow Hollow, High Bluff, Grand Pine, Sand Key, Iron Gate, Blue Ridge Falls,
Maple Shore, Swan River, Eagle Pass
"""


TEAMS = """
Harbor United, the Granite Foxes, Lakeside Rovers, the Iron Herons, Valley Athletic, the Copper Kings, Dockside Rangers,
the Northern Stags, Old Mill Wanderers, the River Hawks, Summit City, the Blue Lanterns, Eastgate Albion,
the Prairie Bulls, Castle Park, the Silver Otters, Westwood Town, the Thunder Bears, Mariner Sports, the Red Kestrels
"""


COUNTRIES = """
Velmora, Tarsia, Ostrania, Kelandia, Brevonia, Sundara, Marovia, Illyrica, Zantara, Norrland, Quorania, Estavia,
Pelagonia, Drovenia, Candara, Lothmar, Westria, Arvenia, Solvania, Mirandia
"""


def names(text: str) -> list[str]:
    return [" ".join(name.split()) for name in text.split(",")]


def percents(low: int, high: int) -> list[str]:
    return [f"[{number} percent|{number}%]" for number in range(low, high)]


# Kinds of names, of which every split gets its own share. People and companies are known by two names.
NAMES: dict[str, list[str]] = {
    "firm": [f"[{name}|{name.split()[0]}]" for name in names(FIRMS)],
    "person": [f"[{name}|{name.split()[1]}]" for name in names(PEOPLE)],
    "town": names(TOWNS),
    "team": names(TEAMS),
    "country": names(COUNTRIES),
}


SMALL_NUMBERS = names("two, three, four, five, six, seven, eight, nine, ten, eleven, twelve")


# Kinds of facts that all splits have in common.
VALUES: dict[str, list[str]] = {
    "day": names("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"),
    "month": names("January, March, April, June, July, September, October, December"),
    "quarter": names("first, second, third, fourth"),
    "few": [f"[{word}|{number}]" for number, word in enumerate(SMALL_NUMBERS, start=2)],
    "percent": percents(3, 40),
    "share": percents(51, 68),
    "money": [f"[${n / 10} billion|{n / 10} billion dollars]" for n in range(11, 99)],
    "staff": [str(number) for number in range(120, 990, 10)],
    "tally": names("9 to 4, 8 to 5, 7 to 6, 11 to 3, 10 to 5, 12 to 7, 6 to 5, 14 to 9"),
    "span": names(
        """[a week|seven days], [two weeks|14 days|a fortnight], [three weeks|21 days], [six months|half a year],
        [a year|12 months], [18 months|a year and a half], [two years|24 months], [three months|a quarter of a year]"""
    ),
    "points": names(
        """[a quarter of a point|0.25 percentage points|25 basis points],
        [half a point|0.5 percentage points|50 basis points],
        [three quarters of a point|0.75 percentage points|75 basis points],
        [a full point|one percentage point|100 basis points]"""
    ),
    "crime": names("tax fraud, bribery, arson, perjury, insider trading, embezzlement, blackmail, forgery"),
    "post": names(
        "bank director, cabinet minister, police chief, hospital manager, army officer, university president"
    ),
    "food": names("walnuts, red meat, dark chocolate, soft cheese, white rice, lentils, smoked fish, blueberries"),
    "illness": names("heart disease, stroke, diabetes, kidney stones, high blood pressure, depression, asthma"),
    "commodity": names("wheat, copper, crude oil, coffee, cocoa, silver, natural gas, cotton, sugar"),
    "vehicle": names("school bus, delivery van, fire engine, tram, tractor, cement truck, taxi, police car, ambulance"),
    "plan": names(
        """a ban on cars in the old town, a plan to close the fish market, a new tax on hotel rooms, a second bridge,
        a wind farm on the coast, a cut in bus fares, a night curfew for teenagers, a new airport terminal"""
    ),
    "product": names("electric van, flagship phone, home battery, insulin pump, budget laptop, game console"),
    "workers": names("bus drivers, nurses, dock workers, teachers, airport staff, postal workers, garbage collectors"),
    "grievance": names("pay, working hours, pensions, night shifts, staffing levels, safety rules"),
    "incident": names(
        """a jewel robbery, a warehouse fire, the theft of two paintings, a credit card scam, a bomb threat,
        the kidnapping of a banker, an attack on a cash van"""
    ),
}


# Where the telling goes in a sentence. Denials are framed like confirmations, so that neither is the longer one.
CONFIRMED = [
    "{story}",
    "{story}, {source} said",
    "{source} [said|confirmed] that {story}",
    "{source} confirmed reports that {story}",
]


DENIED = [
    "{source} denied that {story}",
    "{source} denied reports that {story}",
    "it is [false|not true] that {story}, {source} said",
]


# Per event: who confirms or denies it, what changes make it another story, and its tellings. A fact that can change is
# part of every telling, and never of a detail that may be left out, or else a changed story could read like the same.
NEWS = """
the company: outcome, percent
- profit at {firm} <[rose|climbed]/[fell|dropped]> {percent} in the {quarter} quarter[, in spite of a strike in
  {month}|]
- {firm} had a {quarter}-quarter profit that was {percent} <higher/lower> than [a year earlier|the year before]
- the {quarter} quarter brought {firm} a {percent} <[rise|increase]/[fall|drop]> in [profit|earnings][, slightly more
  than analysts had expected|]
- a <strong/weak> {quarter} quarter left [profit|earnings] at {firm} {percent} <above/below> [last year's level|the
  level of a year ago]

the two companies: money, firm <-> other_firm
- {firm} [has agreed|agreed on {day}] to [buy|acquire] {other_firm} for {money}[ in cash|][ after months of talks|]
- {other_firm} will be [bought|acquired|taken over] by {firm} for {money}[, ending months of speculation|]
- an offer of {money} from {firm} for {other_firm} was [accepted|approved] on {day}
- [directors|the board] of {other_firm} [backed|accepted] a [bid|takeover offer] of {money} by {firm}[ on {day}|]

a union official: outcome, staff, town
- {firm} [plans to|is to|will] <[hire|recruit]/[lay off|dismiss]> {staff} workers at its [factory|plant] in {town}[ by
  the end of {month}|]
- the [workforce|payroll] at the {firm} [plant|factory] in {town} will <grow/shrink> by {staff} [people|workers]
- a total of {staff} jobs are to be <[created|added]/[cut|lost]> at [the {firm} plant|the {firm} factory] in {town}
- [managers|executives] at {firm} told [staff|employees] in {town} on {day} that {staff} [posts|positions] would be
  <[added|created]/[cut|scrapped]>

the court: outcome, crime
- a jury in {town} <[found {person} guilty|convicted {person}]/[cleared|acquitted] {person}> of {crime}[ on {day}|][
  after more than a week of deliberations|]
- {person}, a former {post}, was <[found guilty|convicted]/[cleared|acquitted]> of {crime} [by a court in {town}|in
  {town} on {day}]
- the [long|closely watched] trial of {person} for {crime} ended in {town}[ on {day}|] with <[a guilty verdict|a
  conviction]/an acquittal>
- prosecutors in {town} <won/lost> the case against {person}[, a former {post},|] over {crime}[ on {day}|]

the governor: few, other_few, town, few <-> other_few
- a storm that [struck|hit] {town}[ on {day}|] killed {few} people and injured {other_few}[ and left thousands of homes
  without power|]
- in {town}, {few} people [died|lost their lives] and {other_few} were [hurt|injured] when a storm [swept|tore] through
  the area[ on {day}|]
- the storm that [battered|lashed] {town}[ on {day}|] left {other_few} people [injured|hurt] and {few} dead[, some of
  them in a collapsed school|]
- {day}'s storm claimed {few} lives in {town} and caused injuries to {other_few} [other people|others]

the club: team, person <-> other_person
- {team} [appointed|named] {person} as head coach[ on {day}|] [to replace|in place of] {other_person}[, who had been in
  charge for two seasons|]
- {other_person} was [replaced|succeeded] as head coach of {team} by {person}[ on {day}|][ after a run of poor
  results|]
- {person} [takes over from|succeeds|replaces] {other_person} as head coach of {team}[, a club with mounting debts|]
- the [job|post] of head coach at {team} went to {person}[ on {day}|] after the departure of {other_person}

the university: outcome, percent, illness, food
- a study by scientists in {town} found that [eating|a daily portion of] {food}
  <[cuts|lowers|reduces]/[raises|increases]> the risk of {illness} by {percent}
- the risk of {illness} was {percent} <lower/higher> [among|in] people in {town} who [regularly|often] ate {food}
- eating {food} was [linked to|associated with] a {percent} <[drop|reduction]/[rise|increase]> in {illness} in a
  [large|long-term] study [carried out|conducted] in {town}
- people who eat {food} are {percent} <less/more> likely to [develop|suffer from] {illness}[, as scientists in {town}
  have found|]

the exchange: outcome, percent, commodity
- {commodity} prices <[jumped|rose]/[tumbled|fell]> {percent} in {town} on {day}[ in heavy trading|][, the sharpest
  move in almost a year|]
- the price of {commodity} was {percent} <higher/lower> at the close of trading in {town} on {day}[, although gold
  hardly moved|]
- traders in {town} paid {percent} <more/less> for {commodity} on {day} than [a day earlier|the day before]
- {commodity} <[gained|put on]/[lost|shed]> {percent} on {day} in {town}[ after several quiet weeks|]

a police spokesman: few, town, vehicle <-> other_vehicle
- a {vehicle} [ran into|hit|crashed into] the back of a {other_vehicle} [near|outside] {town}[ on {day}|],
  [injuring|hurting] {few} people[, two of them seriously|]
- a {other_vehicle} was [hit|struck] from behind by a {vehicle} [near|outside] {town}[ on {day}|], and {few} people
  were [hurt|injured]
- a total of {few} people were [injured|hurt] [near|outside] {town}[ on {day}|] when a {vehicle} failed to stop and
  [hit|struck] a {other_vehicle}
- the driver of a {vehicle} [rammed|hit] a {other_vehicle} [near|outside] {town}[ on {day}|], [injuring|hurting] {few}
  people

the election office: share, town, person <-> other_person
- {person} [defeated|beat] {other_person} in the [election|race] for mayor of {town}[ on {day}|], [winning|taking]
  {share} of the vote
- {other_person} lost the race for mayor of {town} to {person}, who [won|took|received] {share} of the [vote|ballots
  cast]
- voters in {town} [chose {person} over {other_person}|preferred {person} to {other_person}] as mayor[ on {day}|] with
  {share} of the vote
- with {share} of the vote, {person} [will be|has been elected] the next mayor of {town}, ahead of {other_person}

a city hall spokeswoman: outcome, tally, plan
- the city council of {town} voted {tally}[ on {day}|] <[to approve|in favor of]/[to reject|against]> {plan}[ after a
  heated debate|]
- {plan} <[won|gained]/[lost|was refused]> the support of the {town} city council[ on {day}|] in a {tally} vote
- council members in {town} <[backed|endorsed]/[threw out|turned down]> {plan} by {tally}[ on {day}|][, despite
  protests outside the town hall|]
- by a vote of {tally}, the {town} council[ on {day}|] <[approved|passed]/[threw out|rejected]> {plan}[, an idea first
  raised in {month}|]

a company spokesman: outcome, span, product
- {firm} has <[brought forward|moved up]/[delayed|postponed]> the launch of its [new|long-awaited] {product} by {span}
- the new {product} made by {firm} will go on sale {span} <earlier/later> than [planned|first announced][, with prices
  unchanged|]
- buyers waiting for the [new|latest] {product} from {firm} will <get it {span} sooner/have to wait {span} longer> than
  [first announced|originally planned]
- the [new|latest] {product} from {firm} will be in stores {span} <[ahead of schedule|before the promised date]/[behind
  schedule|after the promised date]>

the finance minister: outcome, points
- the central bank of {country} <[raised|lifted]/[cut|lowered]> its [key|main|benchmark] interest rate by {points}[ on
  {day}|][, a move that economists had predicted|]
- borrowing in {country} became <[more expensive|costlier]/[cheaper|less expensive]>[ on {day}|] when the central bank
  moved its [main|key] interest rate by {points}
- the [main|benchmark] interest rate in {country} will be {points} <higher/lower> from {month} [after|following] a
  decision by the central bank
- central bankers in {country} [announced|decided on] <[a rise|an increase]/[a cut|a reduction]> of {points} in the
  [key|main] interest rate[ on {day}|]

a lawyer: outcome, few, incident
- police in {town} have <charged/[freed|released]> {few} people [arrested|detained|held] last week [over|in connection
  with] {incident}
- the {few} people [arrested|detained] in {town} over {incident} will <[be put on trial|face charges]/[be set
  free|escape trial]>
- prosecutors in {town} <will press/have dropped> charges against {few} people suspected of involvement in {incident}
- after two days in custody, {few} people held over {incident} in {town} were <[formally charged|ordered to stand
  trial]/[allowed to go home|set free]>[ on {day}|]

the union: outcome, grievance, workers
- {workers} in {town} <[went on strike|walked off the job]/[called off their strike|went back to work]> on {day} in a
  dispute over {grievance}[ that has lasted for months|]
- a strike by {workers} over {grievance} <[began|started]/[ended|came to an end]> in {town} on {day}
- residents of {town} were told on {day} that {workers} had <[begun|started]/[ended|called off]> their strike over
  {grievance}
"""


@dataclass(frozen=True)
class Event:
    """One kind of news.

    A change is a fact of which another value makes another story, or `firm <-> other_firm`: two facts that trade
    places, which leaves the words the same and reverses the roles.
    """

    source: str
    changes: list[str]
    tellings: list[str]


def event(paragraph: str) -> Event:
    heading, *tellings = re.split(r"\n- ", paragraph.strip())
    source, changes = heading.split(": ")
    return Event(source, names(changes), [" ".join(telling.split()) for telling in tellings])


EVENTS = [event(paragraph) for paragraph in NEWS.split("\n\n")]


Facts = dict[str, str]


Pools = dict[str, list[str]]


def make_rows(split: str) -> list[dict[str, Any]]:
    """Make the rows of one split, always the same ones: sentence1, sentence2, label and idx."""
    size = SPLIT_SIZES[split]
    rng = random.Random(f"demo {split}")
    pools = pools_of(split)
    paraphrases = round(size * PARAPHRASE_SHARE)
    labels = [1] * paraphrases + [0] * (size - paraphrases)
    rng.shuffle(labels)

    rows: list[dict[str, Any]] = []
    seen: set[frozenset[str]] = set()
    while len(rows) < size:
        label = labels[len(rows)]
        first, second = pair(rng.choice(EVENTS), label, pools, rng)
        if first == second or frozenset((first, second)) in seen:
            continue
        seen.add(frozenset((first, second)))
        rows.append({"sentence1": first, "sentence2": second, "label": label, "idx": len(rows)})
    return rows


def pools_of(split: str) -> Pools:
    """The values of every kind of fact; of each five names, three go to train and one to each of the other splits."""
    places = {"train": (0, 1, 2), "validation": (3,), "test": (4,)}[split]
    own_names = {kind: [n for i, n in enumerate(pool) if i % 5 in places] for kind, pool in NAMES.items()}
    return own_names | VALUES


def pair(event: Event, label: int, pools: Pools, rng: random.Random) -> tuple[str, str]:
    """Two sentences about the event that agree, or, for label 0, contradict each other in one respect."""
    facts = draw_facts(event, pools, rng)
    other_facts = facts if label else changed_facts(event, facts, pools, rng)
    telling, other_telling = rng.sample(event.tellings, 2)
    if rng.random() < SAME_TELLING_SHARE[label]:
        other_telling = telling
    sentences = [tell(event, telling, facts, rng), tell(event, other_telling, other_facts, rng)]
    rng.shuffle(sentences)
    return sentences[0], sentences[1]


def kind_of(fact: str) -> str:
    return fact.removeprefix("other_")


def draw_facts(event: Event, pools: Pools, rng: random.Random) -> Facts:
    facts = {
        "report": "denied" if rng.random() < SHARED_DENIAL_SHARE else "confirmed",
        "outcome": rng.choice(("true", "false")),
    }
    for telling in event.tellings:
        for fact in re.findall(r"\{(\w+)\}", telling):
            if fact not in facts:
                facts[fact] = another_value(fact, facts, pools, rng)
    return facts


def another_value(fact: str, facts: Facts, pools: Pools, rng: random.Random) -> str:
    """A value for the fact that no fact of its kind has so far."""
    if fact == "outcome":
        return "false" if facts["outcome"] == "true" else "true"
    taken = [value for known, value in facts.items() if kind_of(known) == kind_of(fact)]
    return rng.choice([value for value in pools[kind_of(fact)] if value not in taken])


def changed_facts(event: Event, facts: Facts, pools: Pools, rng: random.Random) -> Facts:
    """The same facts but for one contradiction: a denial, another value, or two roles reversed."""
    if rng.random() < DENIAL_SHARE:
        return facts | {"report": "confirmed" if facts["report"] == "denied" else "denied"}
    fact, _, other = rng.choice(event.changes).partition(" <-> ")
    if other:
        return facts | {fact: facts[other], other: facts[fact]}
    return facts | {fact: another_value(fact, facts, pools, rng)}


def tell(event: Event, telling: str, facts: Facts, rng: random.Random) -> str:
    """One sentence with these facts; the wordings and the side details are drawn anew every time."""
    frame = rng.choice(DENIED if facts["report"] == "denied" else CONFIRMED)
    text = frame.format(story=telling, source=event.source)
    side = r"\1" if facts["outcome"] == "true" else r"\2"
    text = re.sub(r"<([^/<>]*)/([^<>]*)>", side, text).format(**facts)
    while "[" in text:
        text = re.sub(r"\[([^][]*)]", lambda wordings: worded(wordings[1].split("|"), rng), text)
    text = re.sub(r"\ba (?=[aeio]|8|11|18)", "an ", " ".join(text.split()))
    return text[0].upper() + text[1:] + "."


def worded(wordings: list[str], rng: random.Random) -> str:
    if wordings[-1] == "":
        return wordings[0] if rng.random() < DETAIL_SHARE else ""
    return rng.choice(wordings)


def write_rows(path: Path) -> None:
    """Write all rows as jsonl, each with the name of its split first."""
    lines = [json.dumps({"split": split} | row) + "\n" for split in SPLIT_SIZES for row in make_rows(split)]
    path.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    write_rows(Path(sys.argv[1]) if len(sys.argv) > 1 else DEMO_FILE)
