"""The vocabulary that several generators share."""


def listed(text: str, separator: str | None = None) -> list[str]:
    """The words of a text, so that a long list stays readable in lines of prose.

    >>> listed("red green")
    ['red', 'green']
    """
    return text.split(separator)


NAMES = listed(
    "Anna Ben Carla David Elena Farid Grace Hugo Irene Jonas Kofi Laura Mia Nils Olga Pedro Quinn Rosa Samir Tina "
    "Umar Vera Walter Yara Zoe Alice Boris Chloe Daniel Emma Frank Hana Ivan Julia Karl Linda Marco Nora Omar Paula "
    "Ravi Sofia Tom Ursula Victor Wendy Amir Bella Cyrus Dora"
)

CITIES = listed(
    "Paris London Berlin Madrid Rome Vienna Oslo Prague Lisbon Dublin Athens Cairo Tokyo Delhi Boston Chicago Dallas "
    "Denver Miami Seattle Toronto Sydney Bangkok Nairobi Lima Geneva Milan Munich Porto Zurich"
)

DAYS = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")

MONTHS = listed("January February March April May June July August September October November December")

COLOURS = listed("red blue green yellow black white brown grey orange purple silver golden")

GOODS = listed(
    "lamp chair table sofa mirror carpet clock vase kettle bicycle camera guitar piano jacket coat watch phone laptop "
    "printer tablet radio blanket suitcase backpack umbrella wallet ring necklace painting desk shelf bottle"
)

COUNTABLES = listed(
    "apples pens books stamps cards coins marbles cookies eggs tickets flowers pencils stickers shells balls cups "
    "plates keys oranges lemons buttons candles photos letters bags boxes toys stones plants shirts"
)

JOBS = listed(
    "teacher doctor nurse lawyer farmer baker pilot painter writer singer driver cook plumber engineer dentist judge "
    "waiter barber tailor gardener journalist librarian carpenter photographer"
)

ANIMALS = listed("dog cat horse cow goat sheep rabbit parrot duck donkey hamster turtle")

FOODS = listed("soup pizza rice bread salad cake pasta fish cheese chicken sandwiches pancakes curry noodles")

ROOMS = listed("kitchen garage garden office cellar attic bedroom bathroom library hall basement studio")

TIMES = listed("8 am|9 am|10 am|11 am|1 pm|2 pm|3 pm|4 pm|5 pm|6 pm|7 pm|8 pm|9:30 am|10:15 am|2:30 pm|4:45 pm|noon", "|")

SYLLABLES = listed("ba ke li mo nu ra se ti vo za do fi ga hu jo ku la me ni po ri sa te vi wo ya bel dor fen gar")

BRANDS = listed("Norvik Alpina Brightway Castell Delmora Everlink Fenwick Glasco Heliox Inverra Jorano Kelvanta Luminor")
