"""The pretraining stream beside the five tasks: looking up, copying, naming intents and polite rewriting.

Look-ups and copies of arbitrary words teach a small model to copy from its context, which all five tasks need. Naming
the intent of a customer's message brings in ordinary words about money, travel, homes and devices.
"""

from collections.abc import Iterator
from random import Random
from typing import Any

from potstill.starter.corpus.drawing import Draft, capitalised, draw_rows, informal, turns
from potstill.starter.corpus.words import (
    ANIMALS,
    CITIES,
    COLOURS,
    COUNTABLES,
    DAYS,
    FOODS,
    GOODS,
    JOBS,
    NAMES,
    SYLLABLES,
)

# An intent's verb, and how customers say it.
ACTIONS: dict[str, tuple[str, ...]] = {
    "cancel": ("cancel {it}", "call off {it}", "get rid of {it}", "stop {it}, i do not need it anymore"),
    "order": ("order {it}", "get {it}", "request {it}", "apply for {it}"),
    "change": ("change {it}", "make a change to {it}", "edit {it}", "switch {it} to another one"),
    "check": ("check {it}", "see the status of {it}", "know what is going on with {it}", "have a look at {it}"),
    "report_lost": ("report that {it} is lost", "tell you that {it} is missing", "say that someone stole {it}"),
    "pay": ("pay for {it}", "settle {it}", "know how i can pay {it}", "make the payment for {it}"),
    "track": ("track {it}", "know where {it} is right now", "find out when {it} will arrive"),
    "renew": ("renew {it}", "extend {it}", "keep {it} for another year"),
    "refund": ("get my money back for {it}", "have a refund for {it}", "return {it} and be refunded"),
    "explain_fee": ("know why i was charged for {it}", "understand the fee on {it}", "ask about the cost of {it}"),
    "activate": ("activate {it}", "turn on {it}", "start using {it}", "know how to set up {it}"),
    "block": ("block {it}", "freeze {it}", "lock {it} immediately"),
}

# What the intent is about, and how customers call it.
OBJECTS: dict[str, tuple[str, ...]] = {
    "card": ("my card", "my bank card", "the debit card", "my credit card"),
    "account": ("my account", "the savings account", "my bank account"),
    "transfer": ("the transfer", "my bank transfer", "the money i sent abroad"),
    "top_up": ("my top up", "the top up of my balance", "the money i added"),
    "cash_withdrawal": ("the cash i took from the machine", "my cash withdrawal", "the money from the atm"),
    "exchange_rate": ("the exchange rate", "the rate for foreign currency", "the currency conversion"),
    "flight": ("my flight", "the plane ticket", "the flight on friday"),
    "hotel": ("my hotel", "the hotel room", "the hotel booking"),
    "rental_car": ("the rental car", "my car hire", "the car i rented"),
    "passport": ("my passport", "the travel document"),
    "insurance": ("my insurance", "the insurance policy", "my health cover"),
    "bill": ("my bill", "the electricity bill", "the invoice of last month"),
    "loan": ("my loan", "the mortgage", "the credit i took"),
    "salary": ("my salary", "my paycheck", "the wages of this month"),
    "subscription": ("my subscription", "the monthly plan", "my membership"),
    "parcel": ("my parcel", "the package", "the delivery from the shop"),
    "phone_plan": ("my phone plan", "the mobile contract", "my data plan"),
    "password": ("my password", "my passcode", "the pin code"),
    "identity_check": ("the identity check", "my verification", "the proof of who i am"),
    "restaurant_table": ("a table at the restaurant", "our dinner reservation", "the table for four people"),
    "alarm": ("my alarm", "the alarm for tomorrow morning", "the wake up call"),
    "calendar": ("my calendar", "the meeting in my schedule", "the appointment for next week"),
    "shopping_list": ("my shopping list", "the grocery list", "the list of things to buy"),
    "taxi": ("a taxi", "my ride to the airport", "the cab"),
    "library_book": ("the library book", "the book i borrowed"),
    "gift_voucher": ("the gift voucher", "my coupon", "the discount code"),
}

_WISHES = (
    "I want to {wish}.",
    "How can I {wish}?",
    "i need to {wish} today, please help",
    "Can you help me to {wish}?",
    "what do i have to do to {wish}?",
    "Is it possible to {wish}?",
    "hello, i would like to {wish}",
    "My question: where can I {wish}?",
    "Could you tell me how to {wish}?",
    "i am trying to {wish} but i do not know how",
)


def _word(random: Random) -> str:
    """A word of the corpus or an invented one, so that copying cannot lean on meaning."""
    if random.random() < 0.3:
        return "".join(random.choice(SYLLABLES) for _ in range(random.randint(1, 3)))
    if random.random() < 0.3:
        return str(random.randint(0, 9999))
    pool = random.choice((NAMES, CITIES, GOODS, COUNTABLES, JOBS, ANIMALS, FOODS, COLOURS, DAYS))
    return random.choice(pool)


def _phrase(random: Random, most: int) -> str:
    return " ".join(_word(random) for _ in range(random.randint(1, most)))


def _lookup(random: Random) -> Draft:
    facts = {_phrase(random, 2): _phrase(random, 3) for _ in range(random.randint(2, 6))}
    key = random.choice(list(facts))
    listed = "; ".join(f"{name}: {value}" for name, value in facts.items())
    question = random.choice(("{key}?", "What is {key}?", "Tell me about {key}.", "{key}", "i need {key}"))
    messages = turns(question.format(key=key), facts[key], system=f"Facts: {listed}.")
    return Draft((key, facts[key]), messages, {"kind": "lookup"})


def _first_and_then(random: Random) -> Draft:
    """Look up the second of two values when the first was used, as support conversations need it."""
    facts = {_phrase(random, 2): (_phrase(random, 2), _phrase(random, 3)) for _ in range(random.randint(2, 4))}
    key = random.choice(list(facts))
    first, second = facts[key]
    listed = "; ".join(f"{name}: first {one}, then {two}" for name, (one, two) in facts.items())
    messages = turns(key, f"{capitalised(first)}.", "and then?", f"{capitalised(second)}.", system=f"Facts: {listed}.")
    return Draft((key, first, second), messages, {"kind": "first_and_then"})


def _copy(random: Random) -> Draft:
    text = _phrase(random, 12)
    order = random.choice(("Repeat: ", "Copy this: ", "Say the same words: "))
    return Draft((text,), turns(order + text, text), {"kind": "copy"})


def _message(random: Random, action: str, thing: str) -> str:
    wish = random.choice(ACTIONS[action]).format(it=random.choice(OBJECTS[thing]))
    return informal(random, random.choice(_WISHES).format(wish=wish))


def _intent(random: Random) -> Draft:
    action, thing = random.choice(list(ACTIONS)), random.choice(list(OBJECTS))
    text = f"Message: {_message(random, action, thing)}\n\nName the intent."
    return Draft((action, thing), turns(text, f"{action}_{thing}"), {"kind": "intent"})


def _choice(random: Random) -> Draft:
    """Choose the intent from a list."""
    labels = {f"{random.choice(list(ACTIONS))}_{thing}" for thing in random.sample(list(OBJECTS), random.randint(3, 6))}
    action, thing = random.choice(list(ACTIONS)), random.choice(list(OBJECTS))
    label = f"{action}_{thing}"
    listed = sorted(labels | {label})
    random.shuffle(listed)
    text = f"Labels: {', '.join(listed)}\nMessage: {_message(random, action, thing)}\n\nAnswer with one label."
    return Draft((action, thing), turns(text, label), {"kind": "choice"})


def _polite(random: Random) -> Draft:
    action, thing = random.choice(list(ACTIONS)), random.choice(list(OBJECTS))
    wish = random.choice(ACTIONS[action]).format(it=random.choice(OBJECTS[thing]))
    return Draft((action, thing), turns(f"Say it politely: {wish}", f"Could you please help me to {wish}?"), {"kind": "polite"})


_KINDS = (_lookup, _lookup, _first_and_then, _first_and_then, _copy, _copy, _copy, _intent, _choice, _polite)


def draw(random: Random) -> Draft:
    """One exercise of any kind."""
    return random.choice(_KINDS)(random)


def rows(split: str, num_rows: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Exercises of a split; `meta.kind` names the exercise."""
    return draw_rows("general", draw, split, num_rows, seed)
