"""The words of the synthetic catalogue: invented brands, and kinds of product with their traits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of product.

    Attributes:
        department: The top level of the shop.
        query: The search term it is filed under.
        path: Its place in the shop's tree.
        heads: Names of such a product.
        axes: Names of its options, with the table of values each draws from.
        traits: Attributes that it may have.
        prices: Least and most dollars.
    """

    department: str
    query: str
    path: str
    heads: tuple[str, ...]
    axes: tuple[tuple[str, str], ...]
    traits: tuple[str, ...]
    prices: tuple[float, float]


BRANDS = tuple(
    """
    Alderwick Brontel Calisto-Ray Dunmarrow Eskadale Faircombe Gannet&Row Hollowmere Ivarsson Juniper-Lane Kestrelby
    Lowmoor Mirador-Nine Northquill Orrin&Tate Pellwood Quenby Rustmore Sablefen Thornaby Umberlin Vantry Wexcote
    Yarrowgate
    """.split()
)

TABLES: dict[str, tuple[str, ...]] = {
    "colour": (
        "black", "white", "navy blue", "sky blue", "dark green", "olive", "burgundy", "mustard yellow", "light gray",
        "charcoal", "rose pink", "lilac", "teal", "rust orange", "sand/stone",
    ),
    "clothing": ("x-small", "small", "medium", "large", "x-large", "xx-large", "3x-large"),
    "shoe": ("6", "6.5", "7", "8", "8.5", "9", "10", "10.5 wide", "11 wide", "12"),
    "finish": ("oak", "walnut/black", "bleached pine", "matte steel", "brushed brass", "espresso"),
    "furniture": ("30 inch", "36 inch", "42 inch", "48 inch", "60 inch wide"),
    "rug": ("2 x 3 feet", "3 x 5 feet", "4 x 6 feet", "5 x 8 feet", "8 x 10 feet"),
    "bed": ("twin", "full", "queen", "king"),
    "scent": ("unscented", "bergamot", "cedar and sage", "fig leaf", "rose water", "verbena", "oat milk"),
    "volume": ("2 ounce", "5 ounce", "8.5 fl oz", "12 fl oz (pack of 2)", "16 fl oz", "33 fl oz"),
    "flavour": (
        "sea salt", "dark cherry", "maple pecan", "lemon ginger", "cocoa hazelnut", "smoky paprika", "plain",
        "apple cinnamon",
    ),
    "pack": ("4 count", "8 count", "12 count (pack of 2)", "16 ounce", "24 count", "2 pound"),
    "roast": ("light roast", "medium roast", "dark roast", "half caffeine"),
    "storage": ("16gb", "32gb", "64gb", "128gb", "256gb"),
    "cable": ("3 feet", "6 feet", "10 feet (2 pack)", "15 feet", "25 feet"),
    "plug": ("straight", "right angle", "usb c to usb c", "usb a to usb c"),
    "lens": ("clear", "amber tint", "photochromic", "polarized gray"),
}  # fmt: skip

KINDS = (
    Kind(
        "fashion", "men's running shirts", "Clothing & Shoes › Men › Activewear › Running Shirts",
        ("Running Shirt", "Training Tee", "Athletic Top"), (("color", "colour"), ("size", "clothing")),
        ("quick drying", "moisture wicking", "long sleeve", "short sleeve", "reflective trim", "machine washable",
         "relaxed fit", "stretch fabric", "odor resistant"), (14, 48),
    ),
    Kind(
        "fashion", "women's cardigans", "Clothing & Shoes › Women › Sweaters › Cardigans",
        ("Cardigan", "Knit Jacket", "Wrap Sweater"), (("color", "colour"), ("size", "clothing")),
        ("open front", "button closure", "cable knit", "merino wool", "hand wash only", "deep pockets", "loose fit",
         "long sleeve", "soft lining"), (22, 95),
    ),
    Kind(
        "fashion", "men's work boots", "Clothing & Shoes › Men › Shoes › Work Boots",
        ("Work Boots", "Lace Up Boots", "Site Boots"), (("color", "colour"), ("size", "shoe")),
        ("steel toe", "slip resistant", "waterproof leather", "rubber outsole", "padded collar", "wide fit",
         "oil resistant", "memory foam insole"), (55, 190),
    ),
    Kind(
        "fashion", "women's sandals", "Clothing & Shoes › Women › Shoes › Sandals",
        ("Sandals", "Slide Sandals", "Strappy Sandals"), (("color", "colour"), ("size", "shoe")),
        ("ankle strap", "cork footbed", "open toe", "arch support", "vegan leather", "block heel", "quick drying",
         "non slip sole"), (18, 85),
    ),
    Kind(
        "fashion", "rain jackets", "Clothing & Shoes › Outerwear › Rain Jackets",
        ("Rain Jacket", "Shell Jacket", "Hooded Anorak"), (("color", "colour"), ("size", "clothing")),
        ("taped seams", "packable hood", "wind proof", "two way zipper", "breathable membrane", "machine washable",
         "reflective trim", "adjustable cuffs"), (35, 160),
    ),
    Kind(
        "beauty", "shampoo", "Beauty & Care › Hair › Washing › Shampoos",
        ("Shampoo", "Clarifying Shampoo", "Shampoo Bar"), (("scent", "scent"), ("size", "volume")),
        ("sulfate free", "color safe", "for curly hair", "for dry scalp", "cruelty free", "plant derived",
         "with argan oil", "silicone free"), (6, 38),
    ),
    Kind(
        "beauty", "face moisturizers", "Beauty & Care › Skin › Face › Moisturizers",
        ("Face Cream", "Gel Moisturizer", "Day Lotion"), (("scent", "scent"), ("size", "volume")),
        ("fragrance free", "for sensitive skin", "with hyaluronic acid", "oil free", "spf 30", "cruelty free",
         "fast absorbing", "with niacinamide"), (9, 64),
    ),
    Kind(
        "beauty", "hand soap", "Beauty & Care › Bath › Hand Soaps",
        ("Hand Soap", "Foaming Soap", "Soap Refill"), (("scent", "scent"), ("size", "volume")),
        ("paraben free", "plant derived", "biodegradable formula", "with aloe vera", "recycled bottle", "dye free",
         "for sensitive skin"), (4, 28),
    ),
    Kind(
        "beauty", "makeup brushes", "Beauty & Care › Tools › Makeup Brushes",
        ("Makeup Brush Set", "Powder Brush", "Blending Brushes"), (("color", "colour"),),
        ("synthetic bristles", "vegan friendly", "bamboo handle", "travel case included", "easy to clean",
         "densely packed", "shed resistant"), (8, 55),
    ),
    Kind(
        "beauty", "nail care", "Beauty & Care › Nails › Nail Care",
        ("Manicure Kit", "Cuticle Oil", "Nail File Set"), (("scent", "scent"), ("color", "colour")),
        ("stainless steel", "gentle on nails", "travel size", "with vitamin e", "long lasting", "gift boxed",
         "quick drying"), (5, 42),
    ),
    Kind(
        "grocery", "granola", "Grocery & Pantry › Breakfast › Granola",
        ("Granola", "Granola Clusters", "Toasted Muesli"), (("flavor name", "flavour"), ("size", "pack")),
        ("gluten free", "low sugar", "high protein", "certified organic", "nut free", "whole grain", "non gmo",
         "resealable bag"), (5, 36),
    ),
    Kind(
        "grocery", "coffee beans", "Grocery & Pantry › Drinks › Coffee › Whole Beans",
        ("Coffee Beans", "Espresso Beans", "Coffee Blend"), (("roast", "roast"), ("size", "pack")),
        ("single origin", "fair trade", "shade grown", "low acidity", "certified organic", "small batch",
         "resealable bag", "swiss water process"), (9, 58),
    ),
    Kind(
        "grocery", "trail mix", "Grocery & Pantry › Snacks › Trail Mix",
        ("Trail Mix", "Nut Mix", "Seed and Berry Mix"), (("flavor name", "flavour"), ("size", "pack")),
        ("no added sugar", "lightly salted", "high fiber", "individually wrapped", "dairy free", "keto friendly",
         "non gmo", "resealable bag"), (6, 44),
    ),
    Kind(
        "grocery", "herbal tea", "Grocery & Pantry › Drinks › Tea › Herbal",
        ("Herbal Tea", "Tea Sachets", "Loose Leaf Infusion"), (("flavor name", "flavour"), ("size", "pack")),
        ("caffeine free", "certified organic", "compostable sachets", "fair trade", "no artificial flavors",
         "hand picked", "kosher certified"), (4, 32),
    ),
    Kind(
        "grocery", "hot sauce", "Grocery & Pantry › Condiments › Hot Sauce",
        ("Hot Sauce", "Chili Paste", "Pepper Relish"), (("flavor name", "flavour"), ("size", "pack")),
        ("extra hot", "mildly spiced", "low sodium", "slow fermented", "glass bottle", "gluten free", "small batch"),
        (4, 30),
    ),
    Kind(
        "garden", "bookcases", "Home & Garden › Furniture › Storage › Bookcases",
        ("Bookcase", "Ladder Shelf", "Cube Shelf"), (("color", "finish"), ("size", "furniture")),
        ("solid wood", "easy assembly", "wall anchored", "adjustable shelves", "scratch resistant", "open back",
         "steel frame", "hidden wheels"), (45, 320),
    ),
    Kind(
        "garden", "area rugs", "Home & Garden › Floors › Area Rugs",
        ("Area Rug", "Flatweave Rug", "Shaggy Carpet"), (("color", "colour"), ("size", "rug")),
        ("machine washable", "non slip backing", "stain resistant", "hand woven", "low pile", "natural jute",
         "fade resistant", "pet friendly"), (25, 260),
    ),
    Kind(
        "garden", "bed sheets", "Home & Garden › Bedroom › Sheets",
        ("Sheet Set", "Fitted Sheet", "Duvet Cover"), (("color", "colour"), ("size", "bed")),
        ("percale weave", "deep pockets", "wrinkle resistant", "organic cotton", "cooling fabric", "button closure",
         "pre washed", "machine washable"), (24, 150),
    ),
    Kind(
        "garden", "desk lamps", "Home & Garden › Lighting › Desk Lamps",
        ("Desk Lamp", "Reading Lamp", "Clamp Light"), (("color", "finish"), ("plug", "plug")),
        ("dimmable light", "touch control", "flexible neck", "energy saving", "built in timer", "glare free",
         "wireless charging", "swivel head"), (18, 120),
    ),
    Kind(
        "garden", "plant pots", "Home & Garden › Outdoors › Plant Pots",
        ("Plant Pot", "Hanging Planter", "Window Box"), (("color", "colour"), ("size", "furniture")),
        ("drainage holes", "self watering", "frost proof", "glazed ceramic", "recycled plastic", "saucer included",
         "light weight"), (8, 90),
    ),
    Kind(
        "electronics", "over ear headphones", "Electronics › Audio › Headphones › Over Ear",
        ("Headphones", "Studio Headphones", "Gaming Headset"), (("color", "colour"), ("plug", "plug")),
        ("noise cancelling", "detachable microphone", "long battery life", "foldable design", "fast charging",
         "memory foam cushions", "multipoint pairing", "low latency"), (28, 340),
    ),
    Kind(
        "electronics", "charging cables", "Electronics › Accessories › Cables › Charging",
        ("Charging Cable", "Braided Cable", "Power Cord"), (("color", "colour"), ("size", "cable"), ("style", "plug")),
        ("fast charging", "braided nylon", "reinforced joints", "tangle free", "high speed transfer",
         "gold plated contacts", "flame retardant"), (5, 34),
    ),
    Kind(
        "electronics", "memory cards", "Electronics › Storage › Memory Cards",
        ("Memory Card", "Camera Card", "Storage Card"), (("capacity", "storage"),),
        ("shock proof", "water resistant", "high speed transfer", "adapter included", "x ray proof", "wide temperature",
         "lifetime warranty"), (9, 110),
    ),
    Kind(
        "electronics", "computer glasses", "Electronics › Accessories › Computer Glasses",
        ("Computer Glasses", "Screen Glasses", "Reading Glasses"), (("color", "colour"), ("lens", "lens")),
        ("blue light blocking", "anti glare", "flexible hinges", "light weight", "scratch resistant", "case included",
         "spring nose pads"), (12, 78),
    ),
    Kind(
        "electronics", "portable speakers", "Electronics › Audio › Speakers › Portable",
        ("Portable Speaker", "Shower Speaker", "Camping Speaker"), (("color", "colour"), ("plug", "plug")),
        ("water resistant", "long battery life", "hands free calls", "stereo pairing", "carabiner clip", "deep bass",
         "fast charging", "shock proof"), (19, 210),
    ),
)  # fmt: skip

OPENINGS = ("I am looking for", "I'd like to buy", "Help me find", "Please get me", "I want", "My sister needs")
CLOSINGS = (
    "Made for daily use.",
    "A welcome present.",
    "Checked by hand before it leaves the house.",
    "Spare parts are kept for years.",
    "",
)
