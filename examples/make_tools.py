"""Write examples/tools.json: chats in which an assistant of a cooperage calls five tools.

Run it from anywhere: `python examples/make_tools.py`. Nothing is random, so every machine writes the same bytes.
"""

from __future__ import annotations

import json
from itertools import count, zip_longest
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).with_name("tools.json")


def tool(name: str, description: str, required: int, **properties: dict[str, Any]) -> dict[str, Any]:
    """Return a definition; the first `required` parameters are required."""
    parameters = {"type": "object", "properties": properties, "required": [*properties][:required]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TEXT, NUMBER = {"type": "string"}, {"type": "integer"}
WOOD, DATE = {"type": "string", "enum": ["oak", "ash", "acacia"]}, {"type": "string", "description": "YYYY-MM-DD"}
TOOLS = (
    tool("find_barrels", "Barrels in stock.", 1, wood=WOOD, litres=NUMBER),
    tool("get_order", "Status of an order.", 1, order=TEXT),
    tool("book_pickup", "Book a pickup of an order.", 2, order=TEXT, date=DATE),
    tool("quote_price", "Price of barrels in euros.", 3, wood=TEXT, litres=NUMBER, count=NUMBER),
    tool("send_message", "Send a message to a colleague.", 2, to=TEXT, text=TEXT),
)

Turn = dict[str, Any]
Call = tuple[str, dict[str, Any]]


def chat(question: str, *turns: Turn) -> dict[str, Any]:
    """Return a row."""
    return {"messages": [{"role": "user", "content": question}, *turns], "tools": list(TOOLS)}


def reply(text: str) -> Turn:
    """Return an answer in words."""
    return {"role": "assistant", "content": text}


def called(*pairs: tuple[Call, Any]) -> list[Turn]:
    """Return a turn with calls, and a turn with the result of each."""
    numbers = [f"call_{number}" for number, _ in zip(count(1), pairs, strict=False)]
    calls = [
        {"id": i, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for i, ((name, arguments), _) in zip(numbers, pairs, strict=True)
    ]
    results = [
        {"role": "tool", "tool_call_id": i, "content": json.dumps(result)}
        for i, (_, result) in zip(numbers, pairs, strict=True)
    ]
    return [{"role": "assistant", "content": None, "tool_calls": calls}, *results]


STOCK = (
    ("How many oak barrels do we have?", "oak", None, 31),
    ("Are there any ash barrels in stock?", "ash", None, 6),
    ("Do we have acacia barrels of 50 litres?", "acacia", 50, 0),
    ("How many 225 litre oak barrels are left?", "oak", 225, 14),
    ("Look up the ash barrels of 100 litres, please.", "ash", 100, 9),
    ("Is there any acacia left?", "acacia", None, 3),
    ("I need oak barrels of 500 litres. What is in stock?", "oak", 500, 2),
    ("Check whether we have 30 litre ash barrels.", "ash", 30, 0),
    ("Count the oak barrels of 190 litres.", "oak", 190, 22),
    ("What acacia barrels of 225 litres do we have?", "acacia", 225, 7),
    ("Stock of oak?", "oak", None, 40),
    ("How many ash barrels of 300 litres can I sell?", "ash", 300, 5),
)
ORDERS = (
    ("Where is order H-1042?", "H-1042", "drying"),
    ("What is the status of H-2210?", "H-2210", "ready"),
    ("Has order H-877 been shipped?", "H-877", "shipped"),
    ("Is H-3051 ready?", "H-3051", "in the workshop"),
    ("A customer asks about order H-415.", "H-415", "ready"),
    ("Check H-1909 for me.", "H-1909", "waiting for wood"),
    ("How far are we with order H-2764?", "H-2764", "drying"),
    ("Tell me how order H-608 is doing.", "H-608", "shipped"),
    ("status H-1333", "H-1333", "in the workshop"),
    ("Can you look up H-2958?", "H-2958", "ready"),
)
PICKUPS = (
    ("Book a pickup of H-2210 for 2026-03-14.", "H-2210", "2026-03-14"),
    ("Please have order H-415 picked up on 2026-05-02.", "H-415", "2026-05-02"),
    ("The carrier comes on 2026-04-20, book H-2958 for that day.", "H-2958", "2026-04-20"),
    ("Pickup for H-731 on 2026-06-09, please.", "H-731", "2026-06-09"),
    ("Arrange for H-1180 to be collected on 2026-02-27.", "H-1180", "2026-02-27"),
    ("H-2046 has to leave on 2026-07-31. Book it.", "H-2046", "2026-07-31"),
    ("Could you book the pickup of H-3390 on 2026-08-05?", "H-3390", "2026-08-05"),
    ("On 2026-09-18 the truck takes H-502.", "H-502", "2026-09-18"),
)
PRICES = (
    ("What do 4 oak barrels of 225 litres cost?", "oak", 225, 4, 2480),
    ("Price for 10 ash barrels of 100 litres?", "ash", 100, 10, 2900),
    ("Quote 2 acacia barrels, 50 litres each.", "acacia", 50, 2, 410),
    ("How much is one oak barrel of 500 litres?", "oak", 500, 1, 1150),
    ("A distillery wants 36 oak barrels of 190 litres. What is the price?", "oak", 190, 36, 19800),
    ("Give me a price for 6 ash barrels with 30 litres.", "ash", 30, 6, 690),
    ("Cost of 3 acacia barrels of 225 litres, please.", "acacia", 225, 3, 1740),
    ("What would 12 oak barrels of 300 litres cost?", "oak", 300, 12, 9360),
)
MESSAGES = (
    ("Tell Ines that the staves have arrived.", "Ines", "The staves have arrived."),
    ("Send Marek a message: the saw is repaired.", "Marek", "The saw is repaired."),
    ("Let Tom know that the tour starts at ten.", "Tom", "The tour starts at ten."),
    ("Write to Aylin that hoops are running out.", "Aylin", "Hoops are running out."),
    ("Message Jonas: please call the sawmill.", "Jonas", "Please call the sawmill."),
    ("Tell Petra that the kiln is free on Monday.", "Petra", "The kiln is free on Monday."),
    ("Can you tell Luis the inspector is here?", "Luis", "The inspector is here."),
    ("Inform Greta that lunch is moved to one.", "Greta", "Lunch is moved to one."),
)
PAIRS = (
    ("How are orders H-1042 and H-877 doing?", ("H-1042", "drying"), ("H-877", "shipped")),
    ("Compare the status of H-320 and H-1555.", ("H-320", "ready"), ("H-1555", "in the workshop")),
    ("Are H-2764 and H-2958 ready?", ("H-2764", "drying"), ("H-2958", "ready")),
    ("Check both H-91 and H-640, please.", ("H-91", "waiting for wood"), ("H-640", "shipped")),
    ("Orders H-1717 and H-2022: where are they?", ("H-1717", "in the workshop"), ("H-2022", "drying")),
    ("What about H-808 and H-1290?", ("H-808", "shipped"), ("H-1290", "ready")),
)
WOODS = (
    ("How many oak and ash barrels do we have?", ("oak", 31), ("ash", 6)),
    ("Count the ash and the acacia barrels.", ("ash", 12), ("acacia", 3)),
    ("Stock of acacia and of oak, please.", ("acacia", 0), ("oak", 18)),
    ("Do we have acacia or ash?", ("acacia", 8), ("ash", 0)),
)
CHAINS = (
    ("If H-2210 is ready, book its pickup for 2026-03-14.", "H-2210", "ready", "2026-03-14"),
    ("Book H-1042 for 2026-03-16 if it is ready.", "H-1042", "drying", ""),
    ("Is H-320 ready? Then have it picked up on 2026-10-01.", "H-320", "ready", "2026-10-01"),
    ("When H-1555 is ready, book 2026-11-12 for it.", "H-1555", "in the workshop", ""),
    ("Have H-1290 collected on 2026-05-29, but only if it is ready.", "H-1290", "ready", "2026-05-29"),
    ("Book 2026-06-22 for H-1909 if it is ready.", "H-1909", "waiting for wood", ""),
)
MISSING = (
    ("Where is order H-9999?", "H-9999"),
    ("Check order H-0000.", "H-0000"),
    ("What is the status of H-7777?", "H-7777"),
    ("Is H-8123 ready?", "H-8123"),
)
UNKNOWN = {"error": "no such order"}
WORDS = (
    ("Hello!", "Hello! I look after stock, orders, pickups and prices. What do you need?"),
    ("What can you do?", "I can look up barrels and orders, book pickups, quote prices and send messages."),
    ("Where is my order?", "Which order is it? I need its number."),
    ("Book a pickup for tomorrow.", "Which order is it, and on which date?"),
    ("Book a pickup of H-212.", "On which date shall H-212 be picked up?"),
    ("How much is a barrel?", "Which wood, how many litres, and how many barrels?"),
    ("Send a message to Ines.", "What shall I tell Ines?"),
    ("Thank you!", "You are welcome."),
    ("What is a stave?", "A stave is one of the boards that form the side of a barrel."),
    ("What is the capital of Norway?", "The capital of Norway is Oslo."),
    ("Write a poem about rain.", "Rain on the oak, soft and slow, fills the barrels row by row."),
    ("Goodbye", "Goodbye!"),
)


def stock(wood: str, litres: int | None, found: int) -> tuple[Call, Any]:
    """Return a call for barrels, and its result."""
    return ("find_barrels", {"wood": wood, **({"litres": litres} if litres else {})}), {"count": found}


def order(number: str, state: str) -> tuple[Call, Any]:
    """Return a call for an order, and its result."""
    return ("get_order", {"order": number}), {"order": number, "status": state}


def pickup(number: str, date: str) -> tuple[Call, Any]:
    """Return a call for a pickup, and its result."""
    return ("book_pickup", {"order": number, "date": date}), {"booked": True}


def price(wood: str, litres: int, number: int, euros: int) -> tuple[Call, Any]:
    """Return a call for a price, and its result."""
    return ("quote_price", {"wood": wood, "litres": litres, "count": number}), {"euros": euros}


def message(to: str, text: str) -> tuple[Call, Any]:
    """Return a call that sends a message, and its result."""
    return ("send_message", {"to": to, "text": text}), {"sent": True}


def barrels(wood: str, litres: int | None, found: int) -> str:
    """Return the sentence about barrels in stock."""
    size = f" of {litres} litres" if litres else ""
    return f"There are {found or 'no'} {wood} barrels{size} in stock."


def kinds() -> list[list[dict[str, Any]]]:
    """Return the rows by kind."""
    chains = []
    for question, number, state, date in CHAINS:
        booked = [*called(pickup(number, date)), reply(f"{number} is ready. Its pickup is booked for {date}.")]
        waits = [reply(f"{number} is not ready: its status is {state}. I have booked nothing.")]
        chains.append(chat(question, *called(order(number, state)), *(booked if date else waits)))
    return [
        [chat(q, *called(stock(w, n, found)), reply(barrels(w, n, found))) for q, w, n, found in STOCK],
        [chat(q, *called(order(n, state)), reply(f"The status of {n} is: {state}.")) for q, n, state in ORDERS],
        [
            chat(q, *called(pickup(n, date)), reply(f"The pickup of {n} is booked for {date}."))
            for q, n, date in PICKUPS
        ],
        [chat(q, *called(price(*asked, euros)), reply(f"The price is {euros} euros.")) for q, *asked, euros in PRICES],
        [chat(q, *called(message(to, text)), reply(f"I have told {to}.")) for q, to, text in MESSAGES],
        [
            chat(
                q,
                *called(*(order(*one) for one in two)),
                reply(" ".join(f"The status of {n} is: {s}." for n, s in two)),
            )
            for q, *two in PAIRS
        ],
        [
            chat(q, *called(*(stock(w, None, n) for w, n in two)), reply(" ".join(barrels(w, None, n) for w, n in two)))
            for q, *two in WOODS
        ],
        chains,
        [chat(q, *called((order(n, "")[0], UNKNOWN)), reply(f"There is no order {n}.")) for q, n in MISSING],
        [chat(question, reply(answer)) for question, answer in WORDS],
    ]


def text() -> str:
    """Return the file's text: an array with one row a line, the kinds mixed so that every stretch has each."""
    rows = [row for group in zip_longest(*kinds()) for row in group if row]
    lines = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in rows)
    return f"[\n{lines}\n]\n"


if __name__ == "__main__":
    OUTPUT.write_text(text(), encoding="utf-8")
