"""What can be in an embedded scene: categories with their COCO ids, glyphs and words; scenes with their co-occurrence.

Everything here is data. A category's words are forms of the CHAIR vocabulary. So the metric reads from a caption
exactly the categories that it mentions; a test holds this. Left out on purpose: `bus` (the 2018 pipeline never
finds it) and glyphs that show a second category (surfer, snowboarder, bowl with spoon, fork with knife, tennis racket
with ball).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Category:
    """One COCO category of the world.

    Attributes:
        name: COCO category name.
        coco_id: official COCO category id (1..90).
        glyphs: emoji that show it, one drawn at random per instance.
        size: mean height relative to an average object.
        words: (singular, plural) pairs; the first is the most frequent.
    """

    name: str
    coco_id: int
    glyphs: str
    size: float
    words: tuple[tuple[str, str], ...]


def _category(name: str, coco_id: int, glyphs: str, size: float, *words: str) -> Category:
    pairs = [tuple(word.split("/")) for word in words] or [(name, name + "s")]
    return Category(name, coco_id, glyphs, size, tuple((one, many) for one, many in pairs))


CATEGORIES: tuple[Category, ...] = (
    _category("person", 1, "🧍🚶", 1.35, "person/people", "man/men", "woman/women"),
    _category("bicycle", 2, "🚲", 1.15, "bicycle/bicycles", "bike/bikes"),
    _category("car", 3, "🚗🚙", 1.2, "car/cars"),
    _category("motorcycle", 4, "🏍🛵", 1.1, "motorcycle/motorcycles"),
    _category("airplane", 5, "✈🛩", 1.2, "airplane/airplanes", "plane/planes"),
    _category("train", 7, "🚆🚂", 1.3, "train/trains"),
    _category("truck", 8, "🚚🚛", 1.3, "truck/trucks"),
    _category("boat", 9, "⛵🚤", 1.2, "boat/boats"),
    _category("traffic light", 10, "🚦🚥", 0.9, "traffic light/traffic lights"),
    _category("stop sign", 13, "🛑", 0.85, "stop sign/stop signs"),
    _category("bird", 16, "🐦🦆", 0.8, "bird/birds"),
    _category("cat", 17, "🐈", 0.95, "cat/cats", "kitten/kittens"),
    _category("dog", 18, "🐕🐩", 1.0, "dog/dogs", "puppy/puppies"),
    _category("horse", 19, "🐎", 1.25, "horse/horses"),
    _category("sheep", 20, "🐑🐏", 1.05, "sheep/sheep"),
    _category("cow", 21, "🐄🐂", 1.2, "cow/cows"),
    _category("elephant", 22, "🐘", 1.4, "elephant/elephants"),
    _category("bear", 23, "🐻🐼", 1.15, "bear/bears"),
    _category("zebra", 24, "🦓", 1.2, "zebra/zebras"),
    _category("giraffe", 25, "🦒", 1.4, "giraffe/giraffes"),
    _category("backpack", 27, "🎒", 0.85, "backpack/backpacks"),
    _category("umbrella", 28, "☂🌂", 0.95, "umbrella/umbrellas"),
    _category("handbag", 31, "👜👛", 0.8, "handbag/handbags", "purse/purses"),
    _category("suitcase", 33, "🧳", 0.95, "suitcase/suitcases"),
    _category("frisbee", 34, "🥏", 0.75, "frisbee/frisbees"),
    _category("skis", 35, "🎿", 0.95, "skis/skis"),
    _category("sports ball", 37, "⚽🏀", 0.75, "ball/balls"),
    _category("kite", 38, "🪁", 0.95, "kite/kites"),
    _category("skateboard", 41, "🛹", 0.85, "skateboard/skateboards"),
    _category("bottle", 44, "🍾🍼", 0.85, "bottle/bottles"),
    _category("wine glass", 46, "🍷🍸", 0.8, "wine glass/wine glasses"),
    _category("cup", 47, "☕🥤", 0.8, "cup/cups"),
    _category("knife", 49, "🔪", 0.8, "knife/knives"),
    _category("spoon", 50, "🥄", 0.75, "spoon/spoons"),
    _category("bowl", 51, "🍜🍚", 0.85, "bowl/bowls"),
    _category("banana", 52, "🍌", 0.75, "banana/bananas"),
    _category("apple", 53, "🍎🍏", 0.7, "apple/apples"),
    _category("sandwich", 54, "🥪🍔", 0.85, "sandwich/sandwiches", "burger/burgers"),
    _category("orange", 55, "🍊", 0.7, "orange/oranges"),
    _category("broccoli", 56, "🥦", 0.8, "broccoli/broccoli"),
    _category("carrot", 57, "🥕", 0.75, "carrot/carrots"),
    _category("hot dog", 58, "🌭", 0.85, "hot dog/hot dogs"),
    _category("pizza", 59, "🍕", 0.9, "pizza/pizzas"),
    _category("donut", 60, "🍩🥯", 0.8, "donut/donuts"),
    _category("cake", 61, "🎂🍰", 0.9, "cake/cakes"),
    _category("chair", 62, "🪑💺", 1.1, "chair/chairs"),
    _category("couch", 63, "🛋", 1.3, "couch/couches", "sofa/sofas"),
    _category("potted plant", 64, "🪴", 1.0, "potted plant/potted plants"),
    _category("bed", 65, "🛏", 1.35, "bed/beds"),
    _category("toilet", 70, "🚽", 1.1, "toilet/toilets"),
    _category("tv", 72, "📺", 1.05, "tv/tvs", "television/televisions"),
    _category("laptop", 73, "💻", 0.95, "laptop/laptops"),
    _category("mouse", 74, "🖱", 0.7, "mouse/mice"),
    _category("keyboard", 76, "⌨", 0.85, "keyboard/keyboards"),
    _category("cell phone", 77, "📱", 0.75, "cell phone/cell phones"),
    _category("book", 84, "📕📗", 0.8, "book/books"),
    _category("clock", 85, "⏰🕰", 0.8, "clock/clocks"),
    _category("vase", 86, "🏺⚱", 0.85, "vase/vases"),
    _category("scissors", 87, "✂", 0.75, "scissors/scissors"),
    _category("teddy bear", 88, "🧸", 0.95, "teddy bear/teddy bears"),
    _category("toothbrush", 90, "🪥", 0.8, "toothbrush/toothbrushes"),
)
INDEX = {category.name: i for i, category in enumerate(CATEGORIES)}
CLUTTER = "🌳🌵🪨🍄🕯🔑🎈🪵🌼⭐"


@dataclass(frozen=True)
class SceneKind:
    """A kind of place: two background colours (top and bottom, RGB 0..255), and how often each category turns up."""

    name: str
    top: tuple[int, int, int]
    bottom: tuple[int, int, int]
    weights: dict[str, float]


def _kind(name: str, top: tuple[int, int, int], bottom: tuple[int, int, int], listing: str) -> SceneKind:
    """Read `category*weight, category, …`; a weight not given is 1."""
    weights = {}
    for entry in listing.split(", "):
        category, _, weight = entry.partition("*")
        weights[category] = float(weight or 1)
    return SceneKind(name, top, bottom, weights)


SCENES: tuple[SceneKind, ...] = (
    _kind("kitchen", (238, 226, 198), (186, 150, 112),
          "knife*3, spoon*3, bowl*3, cup*3, bottle*2, person*2, potted plant, clock, banana*2, "
          "apple*2, orange, carrot*2, broccoli*2, cat"),
    _kind("restaurant", (168, 96, 84), (112, 70, 62),
          "wine glass*4, bottle*2, knife*3, spoon*2, pizza*3, sandwich*2, hot dog*2, cake*2, donut, "
          "cup*3, person*3, chair*3, bowl*2"),
    _kind("office", (206, 214, 226), (146, 152, 170),
          "laptop*4, keyboard*4, mouse*4, cell phone*2, book*3, cup*2, chair*3, clock*2, person*2, "
          "potted plant, scissors*1.5, backpack, handbag"),
    _kind("bedroom", (214, 196, 224), (160, 132, 168),
          "bed*5, teddy bear*3, book*2, clock*2, cat*2, chair, tv, laptop, cell phone*2, vase, person, "
          "suitcase*1.5, dog"),
    _kind("living room", (226, 208, 170), (150, 112, 92),
          "couch*5, tv*4, potted plant*2, vase*2, book*2, cat*2, dog*2, chair*2, clock, person*2, "
          "teddy bear, cup, laptop"),
    _kind("bathroom", (206, 236, 236), (140, 190, 198),
          "toilet*5, toothbrush*4, cup*2, bottle*3, scissors*2, potted plant, cat, clock, vase*1.5, "
          "cell phone, person"),
    _kind("street", (176, 190, 206), (104, 106, 112),
          "car*4, truck*2, motorcycle*2, bicycle*2, traffic light*3, stop sign*2, person*3, "
          "handbag*1.5, backpack, dog, umbrella*1.5, skateboard"),
    _kind("park", (160, 210, 240), (104, 170, 84),
          "dog*3, frisbee*3, kite*2, bird*2, sports ball*2, person*3, bicycle*2, skateboard*1.5, "
          "sandwich, backpack, umbrella, horse, book"),
    _kind("beach", (134, 204, 244), (236, 212, 150),
          "umbrella*4, boat*3, bird*2, kite*2, person*3, frisbee*1.5, sports ball*2, dog, bottle, "
          "handbag, banana, book"),
    _kind("farm", (184, 220, 244), (186, 164, 84),
          "cow*4, sheep*4, horse*3, dog*2, bird*2, truck*2, person*1.5, cat, apple, carrot*1.5, "
          "bicycle"),
    _kind("savanna", (246, 208, 140), (196, 166, 80),
          "elephant*4, giraffe*4, zebra*4, bird*2, truck, person, bear*1.5, cow, airplane"),
    _kind("station", (196, 196, 190), (126, 122, 122),
          "train*5, suitcase*4, backpack*3, clock*2, person*4, cell phone*2, handbag*2, airplane*1.5, "
          "truck, umbrella, skis*1.5, bicycle"),
)  # fmt: skip

PAIRS: tuple[tuple[str, str], ...] = (
    ("knife", "spoon"), ("keyboard", "mouse"), ("laptop", "cell phone"), ("dog", "frisbee"), ("couch", "tv"),
    ("bed", "teddy bear"), ("toilet", "toothbrush"), ("car", "traffic light"), ("truck", "stop sign"),
    ("train", "suitcase"), ("wine glass", "pizza"), ("cup", "donut"), ("person", "backpack"), ("umbrella", "boat"),
    ("zebra", "giraffe"),
    ("cow", "sheep"), ("elephant", "bear"), ("banana", "apple"), ("carrot", "broccoli"), ("vase", "potted plant"),
    ("skateboard", "sports ball"), ("motorcycle", "bicycle"), ("kite", "bird"), ("chair", "book"),
)  # fmt: skip
PAIR_BOOST = 5.0
