"""What the tests of pages share."""

from html.parser import HTMLParser


class Tags(HTMLParser):
    """What a browser would see of a page: how often each tag opens, every address, all text, a space for each gap."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attributes):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag in ("img", "svg"):
            alternative = dict(attributes).get("alt" if tag == "img" else "aria-label")
            assert alternative, f"a {tag} has no alternative text"

    def handle_data(self, text):
        self.text += text
