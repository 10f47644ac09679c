"""The word lists of the demo corpora: two small worlds with the same relations between their words.

Both worlds, everyday life and school science, have kinds of nouns with their members, and verbs with a synonym and an
opposite. What a task teaches about these relations in one world therefore holds in the other.
"""

from dataclasses import dataclass

Kinds = dict[str, tuple[str, ...]]  # kind → its members


@dataclass(frozen=True)
class Verb:
    """A verb in the third person, with a word of the same and a word of the opposite meaning."""

    word: str
    synonym: str
    opposite: str


@dataclass(frozen=True)
class World:
    """Words that can form sentences together."""

    actors: Kinds
    things: Kinds
    places: Kinds
    verbs_on_actors: tuple[Verb, ...]
    verbs_on_things: tuple[Verb, ...]

    def verb(self, word: str) -> Verb:
        """The entry that holds this verb."""
        entries = (*self.verbs_on_actors, *self.verbs_on_things)
        return next(entry for entry in entries if word in (entry.word, entry.synonym, entry.opposite))


EVERYDAY = World(
    actors={
        "child": ("boy", "girl", "toddler"),
        "worker": ("nurse", "farmer", "baker"),
        "animal": ("dog", "cat", "horse"),
    },
    things={
        "fruit": ("apple", "pear", "plum"),
        "tool": ("hammer", "shovel", "drill"),
        "toy": ("ball", "kite", "puzzle"),
        "vehicle": ("car", "bus", "truck"),
    },
    places={"room": ("kitchen", "office", "bedroom"), "shop": ("bakery", "market", "pharmacy")},
    verbs_on_actors=(
        Verb("follows", "trails", "avoids"),
        Verb("calms", "soothes", "annoys"),
        Verb("greets", "welcomes", "ignores"),
    ),
    verbs_on_things=(
        Verb("buys", "purchases", "sells"),
        Verb("lifts", "raises", "drops"),
        Verb("finds", "discovers", "loses"),
        Verb("repairs", "mends", "breaks"),
    ),
)

SCIENCE = World(
    actors={
        "insect": ("beetle", "ant", "moth"),
        "bird": ("owl", "eagle", "robin"),
        "plant": ("fern", "cactus", "willow"),
    },
    things={
        "metal": ("copper", "iron", "zinc"),
        "gas": ("oxygen", "helium", "methane"),
        "mineral": ("quartz", "salt", "gypsum"),
        "nutrient": ("sugar", "protein", "starch"),
    },
    places={"habitat": ("forest", "desert", "swamp"), "waters": ("river", "lake", "ocean")},
    verbs_on_actors=(
        Verb("attracts", "lures", "repels"),
        Verb("feeds", "nourishes", "starves"),
        Verb("shelters", "protects", "attacks"),
    ),
    verbs_on_things=(
        Verb("absorbs", "imbibes", "expels"),
        Verb("detects", "senses", "overlooks"),
        Verb("gathers", "collects", "scatters"),
        Verb("warms", "heats", "chills"),
    ),
)

PRAISE = ("delightful", "reliable", "charming", "superb", "pleasant", "clever", "lovely", "splendid")
BLAME = ("dreadful", "shoddy", "tedious", "awful", "irritating", "clumsy", "ugly", "worthless")
DEGREES = ("very", "rather", "truly", "quite")
