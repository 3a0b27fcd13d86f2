"""Plots about things: an order, something borrowed, a choice between two, something lost."""

from __future__ import annotations

from hfplug.demo.scene import Scene, join, sides
from hfplug.demo.words import anywhere, clock, day, street, two

NUMBERS = "two three four five six eight ten twelve".split()
ORDERS = {  # domain: (things, extras)
    "food": (
        "margherita pizzas|lentil soups|veggie burgers|chicken curries|green salads|noodle boxes|fish pies|"
        "cheese omelettes|falafel wraps".split("|"),
        ("garlic bread", "a bottle of wine", "dessert", "extra cheese"),
    ),
    "flowers": (
        "red roses|white lilies|yellow tulips|sunflowers|pink orchids|potted ferns".split("|"),
        ("a vase", "a greeting card", "a ribbon"),
    ),
    "office": (
        "folding chairs|desk lamps|boxes of paper|ink cartridges|headsets|notice boards".split("|"),
        ("assembly", "a service contract", "a spare cable"),
    ),
    "bakery": (
        "chocolate cakes|apple pies|rye loaves|cinnamon rolls|cheese rolls|honey cakes".split("|"),
        ("candles", "a cake stand", "whipped cream"),
    ),
    "books": (
        "cookery books|travel guides|crime novels|picture books|school atlases".split("|"),
        ("gift wrapping", "a bookmark", "a reading lamp"),
    ),
}
PAYMENTS = ("in cash", "by card", "by invoice", "on delivery", "with a voucher", "by phone")
LOANS = (  # thing, what it is for, a smaller thing instead
    ("the drill", "to hang up a shelf", "a hammer"),
    ("the ladder", "to paint the fence", "a stool"),
    ("the tent", "to go camping", "a sleeping bag"),
    ("the camera", "to film a wedding", "an old phone"),
    ("the van", "to move a sofa", "a trailer"),
    ("the projector", "to show a film", "a big screen"),
    ("the suitcase", "to fly to Oslo", "a backpack"),
    ("the lawn mower", "to cut the grass", "a pair of shears"),
    ("the bike", "to ride to work", "a scooter"),
    ("the sewing machine", "to mend a curtain", "a needle kit"),
    ("the guitar", "to practise a song", "a ukulele"),
    ("the grill", "to have a barbecue", "a large pan"),
    ("the dictionary", "to translate a letter", "a phrase book"),
    ("the vacuum cleaner", "to clean the car", "a broom"),
)
EXCUSES = (  # as B says it, and as it is said of B
    ("mine is broken", "it is broken"),
    ("I need it myself", "{B} needs it"),
    ("I sold it", "{B} sold it"),
    ("I lent it to my sister", "a sister has it"),
    ("it is being repaired", "it is being repaired"),
    ("I never lend it", "{B} never lends it"),
)
CHOICES = (  # goal, options, praise, blame
    ("a present for {C}", "the blue scarf|the silver ring|the puzzle|the novel|the tea set|the board game"),
    ("a new sofa", "the green one|the leather one|the corner sofa|the sofa bed|the red one"),
    ("a holiday", "the mountain hut|the beach hotel|the city break|the boat tour|the farm stay"),
    ("a pet", "the cat|the dog|the rabbit|the parrot|the hamster"),
    ("a laptop", "the small laptop|the gaming laptop|the used laptop|the tablet"),
    ("a course", "the pottery course|the Italian course|the first aid course|the yoga course"),
    ("a dress for the party", "the black dress|the long dress|the yellow dress|the striped dress"),
)
PRAISE = "cheaper|more useful|easy to care for|very solid|more fun|better quality|so practical".split("|")
BLAME = "expensive|heavy|loud|boring|fragile|old-fashioned|complicated".split("|")
LOST = (  # thing, what to do when it is gone for good
    ("the wallet", "block the bank cards"),
    ("the passport", "go to the embassy"),
    ("the house key", "change the lock"),
    ("the umbrella", "buy a new one"),
    ("the phone", "call the provider"),
    ("the violin", "ask the police"),
    ("the blue jacket", "wear the old coat"),
    ("the notebook", "write it all again"),
    ("the ticket", "pay twice"),
    ("the laptop bag", "tell the boss"),
    ("the season pass", "apply for another"),
    ("the hearing aid", "see a specialist"),
)


def order(scene: Scene) -> None:
    """A orders from B; the thing may change, be sold out, or the whole order fall through."""
    rng, facts = scene.rng, scene.facts
    scene.domain = rng.choice(tuple(ORDERS))
    things, extras = ORDERS[scene.domain]
    thing_1, thing_2 = two(rng, lambda r: r.choice(things))
    number_1, number_2 = two(rng, lambda r: r.choice(NUMBERS))
    facts["item1"] = f"{number_1} {thing_1}"
    facts["item2"] = f"{number_2} {thing_1}" if rng.random() < 0.5 else f"{number_1} {thing_2}"
    facts.update(addr=street(rng), time=clock(rng), pay=rng.choice(PAYMENTS))
    course = rng.choice(("plain", "switch", "switch", "out_yes", "out_no"))
    scene.say("A", "order.open")
    if course == "out_no":
        facts["item2"] = f"{number_1} {thing_2}"
        scene.say("B", "order.out")
        scene.say("A", "order.out_no")
        scene.say("B", "close")
        facts["thing1"], facts["thing2"] = thing_1, thing_2
        scene.summary = (
            scene.text("{A} wants {item1} from {B}, but they are sold out. {A} declines {item2} and orders nothing")
            + "."
        )
        scene.reference_2 = (
            scene.text("{B} has no {thing1} left and offers {item2} instead, so {A} cancels the order") + "."
        )
        scene.title = scene.text("{item1} sold out")
        scene.ask("[Is anything ordered in the end?|Does {A} buy it?]", "no, {A} buys nothing")
        scene.ask("What does {B} offer?", "{B} offers {item2}")
        return
    if course == "out_yes":
        facts["item2"] = f"{number_1} {thing_2}"
        scene.say("B", "order.out")
        scene.say("A", "order.out_yes")
    scene.say("B", "order.where")
    scene.say("A", "order.address")
    if course == "switch":
        scene.say("A", "order.switch")
        scene.say("B", "order.switch_ok")
    facts["item"] = facts["item1"] if course == "plain" else facts["item2"]
    scene.say("B", "order.when")
    pays = rng.random() < 0.5
    if pays:
        scene.say("A", "order.pay")
        scene.ask("[How does {A} pay?|How is it paid?]", "{pay}")
    first, second = sides(scene, extras, 1) if course == "plain" or not pays else ([], [])
    instead = "" if course == "plain" else " instead of {item1}"
    paying_1, paying_2 = (", paying {pay}", " and pays {pay}") if pays else ("", "")
    scene.summary = join(scene.text("{A} orders {item}" + instead + " from {B}, to {addr} at {time}" + paying_1), first)
    scene.reference_2 = join(
        scene.text(
            "{B} will deliver {item} to {A} by {time} at {addr}" + ("" if course == "plain" else ", not {item1}")
        )
        + (f". {facts['A']} pays {facts['pay']}" if pays else ""),
        second,
    )
    scene.title = scene.text("{item} for {A}")
    scene.ask("[What is ordered in the end?|What does {B} deliver?]", "{item}")
    scene.ask("[Where does it go?|Which address?]", "to {addr}")
    scene.ask("[At what time does it come?|When does it arrive?]", "at {time}")
    if course != "plain":
        scene.ask("[Does {A} get {item1}?|Is {item1} right?]", "no, {A} gets {item2}")
    scene.actions.insert(0, ("B", f"deliver {facts['item']}"))


def borrow(scene: Scene) -> None:
    """A wants to borrow something; B lends it (until a day that may move), refuses, or offers less."""
    rng, facts = scene.rng, scene.facts
    scene.domain = "borrowing"
    facts["item"], facts["purpose"], facts["item2"] = rng.choice(LOANS)
    facts["item_bare"] = facts["item"].removeprefix("the ")
    facts["day1"], facts["day2"] = two(rng, day)
    facts["reason_i"], facts["reason"] = scene.reason()
    facts["excuse"], said = rng.choice(EXCUSES)
    facts["why"] = (
        scene.text(said)[0].lower() + scene.text(said)[1:]
        if said.startswith("it") or said.startswith("a ")
        else scene.text(said)
    )
    course = rng.choice(("lend", "sooner", "longer", "refuse", "instead_yes", "instead_no"))
    scene.say("A", "borrow.open")
    scene.ask("[What does {A} need?|What does {A} want?]", "{A} needs {item} {purpose}")
    scene.ask("[What is {item} for?|Why does {A} ask?]", "{purpose}")
    if course in ("lend", "sooner", "longer"):
        ends = _lend(scene, course)
    elif course == "refuse":
        scene.say("B", "borrow.refuse")
        scene.say("A", "borrow.ask_c")
        scene.actions.append(("A", f"ask {facts['C']}"))
        ends = (
            "{A} cannot borrow {item} from {B} {purpose} because {why}, so {A} will ask {C}",
            "{B} does not lend {A} {item}, as {why}. {B} suggests {C}",
        )
        scene.ask("[Does {A} get {item}?|Does {B} help?]", "no, because {why}")
        scene.ask("[Who may help?|Who else is named?]", "{C}")
    else:
        scene.say("B", "borrow.instead")
        scene.say("A", f"borrow.{course}")
        took = course == "instead_yes"
        ends = (
            (
                "{A} wants {item} {purpose}, but {why}. {A} takes {item2} instead",
                "{B} lends {A} {item2} {purpose}, not {item}, as {why}",
            )
            if took
            else (
                "{A} wants {item} {purpose}, but {why}. {A} declines {item2}",
                "{B} offers {A} only {item2} and not {item}, as {why}. {A} refuses",
            )
        )
        scene.ask("What does {B} offer?", "{B} offers {item2}")
        scene.ask(
            "[Does {A} take {item2}?|Is {A} happy with {item2}?]",
            "yes, {A} takes it" if took else "no, {A} says no to it",
        )
    first, second = (
        sides(scene, ("a spare battery", "an instruction book", "some help"), 1)
        if course in ("lend", "refuse") and rng.random() < 0.8
        else ([], [])
    )
    scene.summary, scene.reference_2 = join(scene.text(ends[0]), first), join(scene.text(ends[1]), second)
    scene.title = scene.text("Borrowing {item}")


def _lend(scene: Scene, course: str) -> tuple[str, str]:
    """B lends the thing; the day of its return may move. Returns both heads, slots unfilled."""
    facts = scene.facts
    scene.say("B", "borrow.lend")
    if course != "lend":
        who = "B" if course == "sooner" else "A"
        scene.say(who, f"borrow.{course}")
        scene.say("A" if who == "B" else "B", "borrow.day_ok")
        facts["who"] = facts[who]
        scene.ask("[Is it {day1} in the end?|Was {day1} kept?]", "no, now it is {day2}")
        scene.ask("[Why is {day1} bad?|Why not {day1}?]", "because {who} {reason}")
    facts["day"] = facts["day1"] if course == "lend" else facts["day2"]
    scene.actions.append(("A", f"return {facts['item']} on {facts['day']}"))
    scene.ask("[When must it be back?|On which day does {B} get it back?]", "on {day}")
    scene.ask("[Does {B} help?|Does {A} get {item}?]", "yes, until {day}")
    if course == "lend":
        return (
            "{A} borrows {item} from {B} {purpose} and must return it on {day}",
            "{B} lends {A} {item} until {day}, {purpose}",
        )
    return (
        "{A} borrows {item} from {B} {purpose} and must return it on {day}, not {day1}, because {who} {reason}",
        "{B} lends {A} {item} until {day}, since {who} {reason}",
    )


def choice(scene: Scene) -> None:
    """A wavers between two things; B advises; A follows or does not."""
    rng, facts = scene.rng, scene.facts
    scene.domain = "choice"
    goal, options = rng.choice(CHOICES)
    facts["goal"] = goal.replace("{C}", facts["C"])
    facts["opt1"], facts["opt2"] = rng.sample(options.split("|"), 2)
    facts["better"], facts["worse"] = rng.sample((facts["opt1"], facts["opt2"]), 2)
    facts["good"], facts["bad"] = rng.choice(PRAISE), rng.choice(BLAME)
    course = rng.choice(("follow", "lean,follow", "lean,stay"))
    scene.say("A", "choice.open")
    scene.say("B", "choice.advise")
    if course.startswith("lean"):
        scene.say("A", "choice.lean")
        scene.say("B", "choice.push")
    follows = course.endswith("follow")
    scene.say("A", "choice.follow" if follows else "choice.stay")
    facts["end"] = facts["better"] if follows else facts["worse"]
    first, second = [], []
    if rng.random() < 0.5:
        facts["day1"] = day(rng)
        scene.say("A", "choice.when")
        scene.actions.append(("A", f"get {facts['end']} on {facts['day1']}"))
        first, second = [scene.text("{A} will get it on {day1}")], [scene.text("{day1} is the day for it")]
        scene.ask("[When does {A} go?|On which day?]", "on {day1}")
    else:
        first, second = sides(scene, ("a second one", "a gift box", "some advice"), 1)
    if follows:
        heads = (
            "{A} needs {goal} and takes {better} rather than {worse}, as {B} advises",
            "{B} advises {A} to take {better} for {goal}, and {A} agrees",
        )
    else:
        heads = (
            "{A} needs {goal} and takes {worse}, although {B} advises {better}",
            "{B} finds {worse} too {bad}, but {A} still wants it",
        )
    scene.summary, scene.reference_2 = join(scene.text(heads[0]), first), join(scene.text(heads[1]), second)
    scene.title = scene.text("{A} chooses {end}")
    scene.ask("[What does {A} take in the end?|Which one wins?]", "{end}")
    scene.ask("[What does {B} like?|What is the advice?]", "{B} likes {better}")
    scene.ask("[Does {A} listen to {B}?|Do they agree?]", "yes, it is {better}" if follows else "no, {A} wants {worse}")
    scene.ask("[What is needed?|What is it for?]", "{goal}")


def lost(scene: Scene) -> None:
    """A has lost a thing; B finds it, or A must live without."""
    rng, facts = scene.rng, scene.facts
    scene.domain = "lost things"
    facts["thing"], facts["lost_do"] = rng.choice(LOST)
    facts["place1"], facts["place2"] = two(rng, anywhere)
    facts["day1"] = day(rng)
    found = rng.random() < 0.6
    scene.say("A", "lost.open")
    scene.say("B", "lost.ask")
    scene.say("A", "lost.guess")
    if found:
        scene.say("B", "lost.found")
        scene.say("B", "lost.return")
        scene.say("A", "lost.thanks")
        heads = (
            "{B} finds {thing} of {A} {place2}, not {place1}, and returns it on {day1}",
            "{A} lost {thing}. It is {place2} and {B} gives it back on {day1}",
        )
        scene.ask("[Where is {thing} really?|Where was it found?]", "{place2}")
        scene.ask("[When does {A} get it?|On which day is it back?]", "on {day1}")
        scene.actions.append(("B", f"return {facts['thing']}"))
    else:
        scene.say("B", "lost.not")
        scene.say("A", "lost.plan")
        heads = (
            "{A} lost {thing} and it is not {place1}, as {B} says, so {A} must {lost_do}",
            "{B} looks {place1} in vain for {thing}. {A} has to {lost_do}",
        )
        scene.ask("[What must {A} do now?|What is the plan?]", "{lost_do}")
        scene.ask("[Is it found?|Does {B} find it?]", "no, not {place1}")
        scene.actions.append(("A", facts["lost_do"]))
    first, second = sides(scene, ("a lift home", "some money", "a cup of tea"), 1)
    scene.summary, scene.reference_2 = join(scene.text(heads[0]), first), join(scene.text(heads[1]), second)
    scene.title = scene.text("{thing} found" if found else "{thing} lost")
    scene.ask("[What is missing?|What did {A} lose?]", "{thing} is missing")
    scene.ask("[What does {A} think?|Where was it last?]", "{A} thinks {place1}")
