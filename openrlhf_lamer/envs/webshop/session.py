"""One shopper's way through the pages of a shop: the original's text mode.

A page is its visible texts with ` [SEP] ` between them, read as the original's browser reads them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

from openrlhf_lamer.envs.webshop.scoring import Score, score
from openrlhf_lamer.envs.webshop.shop import Goal, Product, Shop

SEPARATOR = " [SEP] "
PER_PAGE = 10

BACK, PREVIOUS, NEXT, BUY = "back to search", "< prev", "next >", "buy now"
DETAILS = ("description", "features", "reviews")
BUTTONS = (BACK, PREVIOUS, *DETAILS, BUY)
"""Buttons of a product's page, besides its options."""

_ACTION = re.compile(r"(.+)\[(.+)\]")
_UNREADABLE = re.compile(r"[\[\n]")
_HTML_ESCAPES = str.maketrans({mark: f"\\u{ord(mark):04x}" for mark in "&<>'"})
_BLANK = re.compile(r"[\t\n\f\r ]*\Z")


class Page(StrEnum):
    """Kind of page that a shopper is on."""

    HOME = "home"
    RESULTS = "results"
    PRODUCT = "product"
    DETAIL = "detail"
    """A product's description, features or reviews."""
    DONE = "done"


@dataclass(slots=True)
class Session:
    """The state of a shopper. It is small: the shop is shared.

    Attributes:
        shop: The shop.
        goal: The request.
        page: The page being looked at.
        query: The latest search; None before the first.
        number: The page of results, from 1.
        hits: Numbers of all products found.
        product: Number of the product being looked at, None for none.
        detail: Name of the detail being looked at.
        options: Chosen values by the option's name.
        score: Score of the purchase, once there is one.
    """

    shop: Shop
    goal: Goal
    page: Page = Page.HOME
    query: str | None = None
    number: int = 0
    hits: tuple[int, ...] = ()
    product: int | None = None
    detail: str = ""
    options: dict[str, str] = field(default_factory=dict)
    score: Score | None = None

    def act(self, action: str) -> str | None:
        """Do what `search[...]` or `click[...]` says.

        Returns the action with case and spaces as the shop reads them; if the page does not offer it, None without any
        change.
        """
        match = _ACTION.match(action)
        name, argument = (match[1], match[2].lower()) if match else (action, "")
        if name == "search" and argument:
            # Spaces separate the words of a search and mean nothing else.
            argument = " ".join(argument.split()) or " "
            self._search(argument, 1)
        elif name == "click" and argument in self.clickables():
            self._click(argument)
        else:
            return None
        return f"{name}[{argument}]"

    def clickables(self) -> tuple[str, ...]:
        """Targets that `click[...]` may name."""
        match self.page:
            case Page.RESULTS:
                before = (BACK, PREVIOUS, NEXT) if self.number > 1 else (BACK, NEXT)
                return (*before, *(self.shop.products[hit].asin.lower() for hit in self.shown()))
            case Page.PRODUCT:
                return _offered(self._product())
            case Page.DETAIL:
                return BACK, PREVIOUS
        return ()

    def shown(self) -> tuple[int, ...]:
        """Numbers of the products on this page of results."""
        return self.hits[(self.number - 1) * PER_PAGE : self.number * PER_PAGE]

    def text(self) -> str:
        """The page as the shopper reads it."""
        request = self.goal.instruction
        match self.page:
            case Page.HOME:
                return _joined("WebShop", "Instruction: ", request, "Search")
            case Page.RESULTS:
                head = f"Page {self.number} (Total results: {len(self.hits)})"
                buttons = ("< Prev", "Next >") if self.number > 1 else ("Next >",)
                cards = (_card(self.shop.products[hit]) for hit in self.shown())
                return SEPARATOR.join((_joined("Instruction:", request, "Back to Search", head, *buttons), *cards))
            case Page.PRODUCT:
                top = _joined("Instruction:", request, "Back to Search", "< Prev")
                return top + SEPARATOR + _details(self._product())
            case Page.DETAIL:
                product = self._product()
                shown = {"description": (product.description,), "features": (f" {each}" for each in product.bullets)}
                top = ("Instruction:", request, "Back to Search", "< Prev")
                return _joined(*top, *shown.get(self.detail, ()))
            case Page.DONE:
                return self._receipt()

    def key(self) -> str:
        """The whole state, except the goal, as a text."""
        asin = None if self.product is None else self._product().asin
        return json.dumps([self.page, self.query, self.number, asin, self.detail, sorted(self.options.items())])

    def _search(self, query: str, number: int) -> None:
        self.page, self.query, self.number = Page.RESULTS, query, number
        self.hits = self.shop.index.search(query)
        self.product, self.detail, self.options = None, "", {}

    def _click(self, target: str) -> None:
        if target == BUY:
            self.page = Page.DONE
            wanted = self.shop.products[self.goal.product]
            self.score = score(self._product(), self.options.values(), self.goal, wanted)
        elif target == BACK:
            self.page, self.query, self.number, self.hits = Page.HOME, None, 0, ()
            self.product, self.detail, self.options = None, "", {}
        elif self.page is Page.RESULTS and target in (NEXT, PREVIOUS):
            self._search(self.query or "", self.number + (1 if target == NEXT else -1))
        elif self.page is Page.RESULTS:
            self.product = next(hit for hit in self.shown() if self.shop.products[hit].asin.lower() == target)
            self.page = Page.PRODUCT
        elif self.page is Page.DETAIL:
            self.page, self.detail = Page.PRODUCT, ""
        elif target == PREVIOUS:
            self._search(self.query or "", self.number)
        elif target in DETAILS:
            self.page, self.detail = Page.DETAIL, target
        else:
            name = [name for name, values in self._product().options.items() if target in values][-1]
            self.options[name] = target

    def _product(self) -> Product:
        assert self.product is not None
        return self.shop.products[self.product]

    def _receipt(self) -> str:
        """The last page, with the parts of the original's form that text mode leaves empty."""
        assert self.score is not None
        texts = ["Thank you for shopping with us!", "Your code:", "None", "(Paste it in your MTurk interface.)"]
        # The original's template writes JSON that is safe within HTML.
        options = json.dumps(self.options, sort_keys=True).translate(_HTML_ESCAPES)
        texts += ["Purchased", "asin", self._product().asin, "options", options]
        for label in ("attrs", "category", "query", "product category"):
            texts += [label, "None"]
        texts += ["Target", "asin", "options", "attrs", "price upper", "instuction text", "category"]
        texts += ["product category", "query", "Goal", "None", "Reward", "Your score (min 0.0, max 1.0)"]
        texts += [str(self.score.total), "Reward Details", "None"]
        return SEPARATOR.join(texts)


def can_be_named(target: str) -> bool:
    """Whether an action can name `target`.

    As in the original, an action's argument begins after its last `[` and ends in the same line, so an option
    such as `red [matte]` is shown but cannot be chosen.
    """
    return bool(target) and not _UNREADABLE.search(target)


@lru_cache(maxsize=1 << 14)
def _offered(product: Product) -> tuple[str, ...]:
    """Targets of clicks on a product's page."""
    return (*BUTTONS, *(value for value in product.values if value not in BUTTONS and can_be_named(value)))


@lru_cache(maxsize=1 << 14)
def _card(product: Product) -> str:
    """A product on a page of results."""
    return _joined(product.asin, product.name, product.price_tag)


@lru_cache(maxsize=1 << 14)
def _details(product: Product) -> str:
    """A product's own page, below the navigation."""
    options = (text for name, values in product.options.items() for text in (name, *values))
    tags = (product.name, f"Price: {product.price_tag}", "Rating: N.A.")
    return _joined(*options, *tags, "Description", "Features", "Reviews", "Buy Now")


def _joined(*texts: str) -> str:
    """Texts as a browser's text nodes: trimmed; of blank ones, only those without a line break are kept."""
    return SEPARATOR.join(text.strip() for text in texts if text and not ("\n" in text and _BLANK.match(text)))
