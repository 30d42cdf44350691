"""Which column or key most likely is which field, by its name alone."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping

#: For each field what columns are called, the likeliest first, in small letters without accents: a
#: name with all words of one of these may be meant; after = it has to be the whole name.
_SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "contact_email": (
        "contact email", "customer email", "billing email", "email address", "email", "e mail",
        "mail", "kundenmail", "klantmail", "mailadresse", "emailadresse", "emailadres", "correo",
        "courriel", "epos",
    ),
    "order_id": (
        "order id", "order number", "order no", "order nr", "order name", "=order", "increment id",
        "bestellnummer", "bestellnr",
        "auftragsnummer", "bestelnummer", "bestelling", "=receipt", "=invoice",
        "kassenbon", "=bon", "bonnummer", "bonnr", "belegnummer", "belegnr", "rechnungsnummer",
        "rechnungsnr", "kassabon", "factuurnummer",
        "commande", "pedido", "numero ordine", "=ordine", "=reference", "=number",
        "=nummer", "=nr", "=no", "=id",
    ),
    "product_name": (
        "product name", "lineitem name", "line items name", "item name", "product title",
        "=product", "=item", "=artikel", "produkt", "bezeichnung",
        "artikelbezeichnung", "artikelname", "produktname", "produit", "article", "producto",
        "omschrijving", "designation", "descripcion", "prodotto", "produto",
        "=description", "=title",
    ),
    "product_quantity": (
        "product quantity", "lineitem quantity", "item quantity", "quantity", "qty", "qty ordered",
        "pieces", "menge", "stuckzahl", "stuck",
        "anzahl", "aantal", "hoeveelheid", "quantite", "cantidad", "quantita",
        "quantidade",
        "units", "=count",
    ),
    "product_price": (
        "product price", "lineitem price", "item price", "item cost", "unit price", "price",
        "einzelpreis", "stuckpreis", "artikelpreis", "preis", "prijs", "prys", "prix", "precio",
        "prezzo", "preco", "cost",
    ),
    "product_sku": (
        "product sku", "lineitem sku", "sku", "artikelnummer", "artikelnr", "=art nr",
        "item number", "product code",
        "barcode",
    ),
    "product_line_total": (
        "line total", "row total", "item total", "positionssumme", "zeilensumme",
    ),
    "product_url": ("product url", "product link"),
    "sub_total": ("sub total", "subtotal", "zwischensumme", "subtotaal", "sous total"),
    "shipping_fee": (
        "shipping fee", "shipping amount", "shipping total", "shipping cost", "=shipping",
        "versandkosten", "=versand", "verzendkosten", "=delivery", "livraison", "envio",
    ),
    "taxes": (
        "total tax", "tax amount", "taxes", "=tax", "vat", "mwst", "btw", "steuer", "steuern",
        "tva", "iva",
    ),
    "discount": ("discount amount", "=discount", "rabatt", "korting", "remise", "descuento"),
    "total": (
        "grand total", "order total", "total price", "total amount", "=total", "gesamtbetrag",
        "gesamtsumme", "gesamt", "summe", "totaal", "totaalbedrag", "totale", "valor total",
        "montant total", "bedrag", "betrag", "montant", "importe", "=amount",
    ),
    "order_link_url": ("order link", "order url", "order status url", "=link"),
    "contact_unique_id": ("contact unique id", "unique id"),
    "date": (
        "created at", "order date", "date created", "purchase date", "bestelldatum",
        "besteldatum", "data ordine", "data pedido", "=date", "=datum", "fecha",
        "=day", "=placed", "=created", "=tag",
    ),
}  # fmt: skip
_STATUS = re.compile(
    r"status|\b(?:state|zustand|toestand|estado|statut|stato|situacao|cancell?ed|storniert"
    r"|geannuleerd|annulee?|annullato|cancelad[oa])\b"
)
# Whose e-mail address it is: the customer's, or that of the shop and who works there.
_CUSTOMER = re.compile(
    r"custom|client|klient|kund|klant|buyer|purchas|billing|payer|invoice|rechnung|factu"
    r"|besteller|(?<!ver)kaufer|(?<!ver)koper|achet|comprador|acquirent"
)
_SELLER = re.compile(
    r"verkauf|verkop|vende|vendit|seller|merchant|supplier|lieferant|leverancier|filial|kass"
    r"|cashier|staff|employee|mitarbeiter|medewerker|winkel|tienda|negozio|boutique|magasin"
    r"|sender|\b(?:store|shop|from)\b"
)
_NEARLY = 0.88
_MAX_CHARS, _MAX_NAMES = 200, 500
_TOTALS = re.compile(
    r"(?:grand )?totals?|sum|(?:gesamt|end)?summe|(?:ins)?gesamt"
    r"|totaal|somme|suma|soma|totale|(?:sub-? ?totals?|subtotaal|zwischensumme|sous-total)\b.*",
    re.IGNORECASE,
).fullmatch
_EXACT, _CONTAINED, _NEAR = 3.0, 2.0, 1.0


def _words(name: str) -> str:
    """A name in small letters without accents, with one blank between its words; # is "nr"."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).replace("#", " nr ")
    plain = "".join(
        char for char in unicodedata.normalize("NFKD", name) if not unicodedata.combining(char)
    )
    return " ".join(re.split(r"[^a-z0-9]+", plain.lower())).strip()


def is_status(name: str) -> bool:
    """Whether a column or key looks like the status of an order."""
    return _STATUS.search(_words(name[:_MAX_CHARS])) is not None


def is_totals(cell: object) -> bool:
    """Whether a cell is what stands beside the sums below a table."""
    return isinstance(cell, str) and _TOTALS(cell.strip(" :")) is not None


def match_email(name: str) -> tuple[int, float]:
    """How likely the name is that of the customer's e-mail address.

    Returns:
        1 if it names the customer, -1 if it names the shop, else 0; and how well the rest matches.
    """
    words = _words(name[:_MAX_CHARS])
    whose = 1 if _CUSTOMER.search(words) else -1 if _SELLER.search(words) else 0
    return whose, _score(words, _SYNONYMS["contact_email"])


def _score(words: str, synonyms: tuple[str, ...]) -> float:
    best = 0.0
    parts = {*words.split()}
    for place, synonym in enumerate(synonyms):
        less = place / 100
        whole = synonym.removeprefix("=")
        if words.replace(" ", "") == whole.replace(" ", ""):
            return _EXACT - less
        if whole != synonym:
            continue
        if parts >= {*synonym.split()}:
            best = max(best, _CONTAINED - less - len(parts) / 50)
        elif _is_near(words, synonym):
            best = max(best, _NEAR - less)
    return best


def _is_near(one: str, other: str) -> bool:
    matcher = difflib.SequenceMatcher(None, one, other)
    return matcher.real_quick_ratio() >= _NEARLY and matcher.ratio() >= _NEARLY


def match_fields(names: Iterable[str], fields: Collection[str] = ()) -> dict[str, str]:
    """For each of the fields, or of all, the name that most likely is meant, if there is one."""
    named = [(name, _words(name)) for name in dict.fromkeys(names) if 0 < len(name) <= _MAX_CHARS]
    scored = sorted(
        (-_score(words, synonyms), place, field, name)
        for field, synonyms in _SYNONYMS.items()
        if field in (fields or _SYNONYMS)
        for place, (name, words) in enumerate(named[:_MAX_NAMES])
    )
    found: dict[str, str] = {}
    for score, _place, field, name in scored:
        if score < 0 and field not in found and name not in found.values():
            found[field] = name
    return {field: found[field] for field in _SYNONYMS if field in found}
