"""Plots with a day, a time or a place to settle: an appointment, an invitation, a delay."""

from __future__ import annotations

from hfplug.demo.scene import Scene, either, join, sides
from hfplug.demo.words import CITIES, address, anywhere, clock, day, public, room, two, venue

# domain: (plain verb, third person, what, how a place is drawn, extras)
APPOINTMENTS = {
    "restaurant": (
        "book",
        "books",
        [f"a table for {n}" for n in "two three four five six eight".split()],
        venue,
        ("a window seat", "the set menu", "a birthday cake", "live music", "a high chair"),
    ),
    "lesson": (
        "take",
        "takes",
        [f"a {n} lesson" for n in "piano guitar swimming driving dance Spanish drawing chess singing riding".split()],
        anywhere,
        ("a trial week", "a group course", "extra homework", "a second lesson", "a rented instrument"),
    ),
    "doctor": (
        "arrange",
        "arranges",
        [f"a check-up for a sore {n}" for n in "knee back throat shoulder foot".split()]
        + ["a blood test", "a flu shot", "an eye test"],
        address,
        ("a video call", "a second opinion", "strong tablets", "a day in hospital"),
    ),
    "repair": (
        "get",
        "gets",
        [f"the {n} repaired" for n in "dishwasher heating oven washing-machine roof bike laptop printer".split()],
        address,
        ("a new pump", "a longer warranty", "an express visit", "a full cleaning"),
    ),
    "haircut": (
        "have",
        "has",
        ["a haircut", "a beard trim", "a new hair colour", "a perm"],
        venue,
        ("a head massage", "a bottle of shampoo", "a cup of coffee"),
    ),
    "meeting": (
        "discuss",
        "discusses",
        [
            f"the {n}"
            for n in "budget contract website report schedule exhibition new logo sales plan".split()
            if n not in ("new", "sales")
        ]
        + ["the new logo", "the sales plan"],
        room,
        ("a video link", "a tour of the office", "sandwiches", "a second meeting"),
    ),
    "travel": (
        "catch",
        "catches",
        [f"the {n} to {c}" for n in ("train", "bus", "night train") for c in CITIES],
        public,
        ("travel insurance", "a hotel room", "a rental car", "first class", "a bike ticket"),
    ),
    "viewing": (
        "see",
        "sees",
        [
            f"the {n}"
            for n in ("flat with two rooms", "small house", "garage", "studio flat", "office space", "used car")
        ],
        address,
        ("a parking space", "the furniture", "a photo tour", "a discount"),
    ),
    "sport": (
        "play",
        "plays",
        "tennis|chess|badminton|table tennis|golf|squash".split("|"),
        public,
        ("a coach", "a second match", "new shoes", "a drink afterwards"),
    ),
}
EVENTS = (
    "the jazz concert|the flower market|the chess club|a garden party|the book fair|the film festival|"
    "a cooking evening|the football match|the museum night|a birthday dinner|the school play|a boat trip|"
    "the quiz night|a photo walk"
).split("|")
CAUSES = (  # what the late person says, what is said of that person, the bare cause
    ("the train is stuck", "the train is stuck"),
    ("my car won't start", "the car won't start"),
    ("I missed the bus", "of a missed bus"),
    ("there is a traffic jam", "of a traffic jam"),
    ("I overslept", "of oversleeping"),
    ("my bike has a flat tyre", "of a flat tyre"),
    ("I have to wait for the plumber", "of the plumber"),
    ("my flight was cancelled", "of a cancelled flight"),
    ("the lift is broken", "the lift is broken"),
    ("I am still at the doctor", "of a visit to the doctor"),
)
GATHERINGS = (
    "dinner|the meeting|the rehearsal|lunch|the class|the film|the interview|the training|the game|"
    "the party|the tour|breakfast"
).split("|")


def appointment(scene: Scene) -> None:
    """A asks for an appointment; day, time or place may change, once or there and back."""
    rng, facts = scene.rng, scene.facts
    scene.domain = rng.choice(tuple(APPOINTMENTS))
    do, does, whats, draw_place, extras = APPOINTMENTS[scene.domain]
    facts.update(do=do, does=does, what=rng.choice(whats))
    facts["day1"], facts["day2"] = two(rng, day)
    facts["time1"], facts["time2"] = two(rng, clock)
    facts["place1"], facts["place2"] = two(rng, draw_place)
    facts["reason_i"], facts["reason"] = scene.reason()
    scene.say("A", "appointment.open")
    scene.say("B", "appointment.propose")
    change = rng.choice(("none", "day", "day", "back", "time", "time", "place", "day+time"))
    clauses = _changes(scene, change)
    facts["day"] = facts["day2"] if change in ("day", "day+time") else facts["day1"]
    facts["time"] = facts["time2"] if "time" in change else facts["time1"]
    facts["place"] = facts["place2"] if change == "place" else facts["place1"]
    many = {"none": 2, "day+time": 0}.get(change, 1)
    first, second = sides(scene, extras, many)
    if rng.random() < 0.4:
        scene.say(rng.choice("AB"), "close")
    head_1 = scene.text(
        either(
            rng,
            "{A} arranges with {B} to {do} {what} on {day} at {time} {place}",
            "{A} will {do} {what} on {day} at {time} {place}, {B} agrees",
        )
    )
    head_2 = scene.text(
        either(
            rng,
            "{B} and {A} settle on {day} at {time} {place} to {do} {what}",
            "With {B}, {A} {does} {what} {place} on {day} at {time}",
        )
    )
    scene.summary = join(head_1, [clauses[0], *first] if clauses else first)
    scene.reference_2 = join(head_2, [*second, clauses[1]] if clauses else second)
    scene.title = scene.text("{what} on {day}")
    scene.ask("[What does {A} want?|What is {A} after?]", "{A} wants to {do} {what}")
    scene.ask("Who is asked?", "{A} asks {B}")
    _settled(scene)


def _changes(scene: Scene, change: str) -> tuple[str, str] | None:
    """Play the change of mind; the clauses about it for both references, or None if there was none."""
    if change == "none":
        scene.say("A", "appointment.accept")
        return None
    if change in ("day", "back", "day+time"):
        scene.say("A", "appointment.day_no")
        scene.ask("[Why is {day1} bad?|Why not {day1}?]", "because {A} {reason}")
        if change == "back":
            scene.say("B", "appointment.day_back")
            scene.say("A", "appointment.day_back_yes")
            scene.ask("[Is it {day2} in the end?|Was {day2} kept?]", "no, it is {day1} again")
            return (
                scene.text("although {A} {reason}, it stays {day1}, as {day2} is full"),
                scene.text("{day2} is full, so {day1} stays"),
            )
        scene.say("B", "appointment.day_yes")
        scene.ask("[Is it {day1} in the end?|Was {day1} kept?]", "no, now it is {day2}")
        clauses = (scene.text("{day1} is impossible because {A} {reason}"), scene.text("{A} {reason} on {day1}"))
        if change == "day":
            return clauses
        scene.say("B", "appointment.time_no")
        scene.say("A", "appointment.time_yes")
        scene.ask("[Is {time1} right?|Do they meet at {time1}?]", "no, {time2} is right")
        return clauses
    what = "time" if change == "time" else "place"
    who = scene.rng.choice("AB")
    if what == "time" and who == "A":
        scene.say("A", "appointment.time_no")
        scene.say("B", "appointment.time_yes")
    else:
        scene.say("A", "appointment.accept")
        scene.say("B", f"appointment.{what}_no")
        scene.say("A", f"appointment.{what}_yes")
        who = "B"
    name, old, new = scene.facts[who], scene.facts[f"{what}1"], scene.facts[f"{what}2"]
    scene.ask(f"What does {name} change?", f"the {what}, from {old} to {new}")
    preposition = "at " if what == "time" else ""
    return (f"{name} changes the {what}, not {preposition}{old}", f"not {preposition}{old}, as {name} says")


def _settled(scene: Scene) -> None:
    """The questions about what was agreed in the end."""
    scene.ask("[On which day is it in the end?|Which day was agreed?|When is it?]", "on {day}")
    scene.ask("[At what time is it in the end?|Which time was agreed?]", "at {time}")
    scene.ask("[Where is it in the end?|Which place was agreed?]", "{place}")
    scene.ask("[When exactly do they meet?|Give day and time.]", "on {day} at {time}")
    scene.ask("[Give time and place.|Where and at what time?]", "{place}, at {time}")


def invitation(scene: Scene) -> None:
    """A invites B, who accepts, declines, or does first the one and then the other."""
    rng, facts = scene.rng, scene.facts
    scene.domain, facts["event"] = "invitation", rng.choice(EVENTS)
    facts["day"] = facts["day1"] = day(rng)
    facts["time"] = facts["time1"] = clock(rng)
    facts["place"] = facts["place1"] = anywhere(rng)
    facts["reason_i"], facts["reason"] = scene.reason()
    course = rng.choice(("yes", "no", "yes,no", "no,yes"))
    scene.say("A", "invite.open")
    scene.say("B", "invite.where")
    scene.say("A", "invite.details")
    if course in ("yes", "yes,no"):
        scene.say("B", "invite.yes")
    else:
        scene.say("B", "invite.no")
    scene.say("A", "invite.good" if course.startswith("yes") else "invite.pity")
    if course == "yes,no":
        scene.say("B", "invite.no_late")
        scene.say("A", "invite.pity")
    elif course == "no,yes":
        scene.say("B", "invite.yes_late")
        scene.say("A", "invite.good")
    comes = course.endswith("yes")
    first, second = sides(scene, ("a lift", "a poster", "a programme"), 1) if comes else ([], [])
    where = "on {day} at {time} {place}"
    if course == "yes":
        head_1, head_2 = (
            "{B} gladly comes to {event} with {A} " + where,
            "{A} invites {B} to {event} " + where + " and {B} accepts",
        )
    elif course == "no":
        head_1 = "{A} invites {B} to {event} " + where + ", but {B} declines because {B} {reason}"
        head_2 = "{B} cannot go to {event} with {A} " + where + ", since {B} {reason}"
    elif course == "yes,no":
        head_1 = "{A} invites {B} to {event} " + where + ". {B} first accepts and then declines because {B} {reason}"
        head_2 = "After saying yes, {B} cannot go to {event} with {A} " + where + ", since {B} {reason}"
    else:
        head_1 = "Although {B} {reason}, {B} will come to {event} with {A} " + where
        head_2 = "{A} invites {B} to {event} " + where + ". {B} first declines and then accepts"
    scene.summary, scene.reference_2 = join(scene.text(head_1), first), join(scene.text(head_2), second)
    scene.title = scene.text("{B} joins {event}" if comes else "{B} misses {event}")
    scene.ask(
        "[Does {B} come in the end?|Will {B} be there?]", "yes, {B} is coming" if comes else "no, {B} is not coming"
    )
    if course != "yes":
        scene.ask("[What is the problem?|Why does {B} hesitate?]", "{B} {reason}")
    scene.ask("[What is it about?|Where does {A} want to go?]", "{A} wants to go to {event}")
    _settled(scene)


def delay(scene: Scene) -> None:
    """A is late; B waits, starts without A, or moves it to another day."""
    rng, facts = scene.rng, scene.facts
    scene.domain, facts["event"] = "delay", rng.choice(GATHERINGS)
    facts["cause_i"], facts["cause"] = rng.choice(CAUSES)
    facts["min1"], facts["min2"] = (str(n) for n in rng.sample((10, 15, 20, 25, 30, 40, 45, 50, 60, 90), 2))
    facts["place1"], facts["day2"], facts["time2"] = anywhere(rng), day(rng), clock(rng)
    scene.say("A", "delay.open")
    scene.say("B", "delay.ask")
    scene.say("A", "delay.say")
    more = rng.random() < 0.5
    if more:
        scene.say("A", "delay.more")
        scene.ask("[Is it {min1} minutes?|Are {min1} minutes enough?]", "no, {min2} minutes")
    facts["minutes"] = facts["min2"] if more else facts["min1"]
    outcome = rng.choice(("wait", "start", "move"))
    scene.say("B", f"delay.{outcome}")
    scene.say("A", "delay.ok")
    first, second = sides(scene, ("a taxi", "a phone call", "some food"), 1) if rng.random() < 0.8 else ([], [])
    ends = {
        "wait": ("{B} will wait {place1}", "{B} waits {place1}"),
        "start": ("{B} will start without {A}", "they begin without {A}"),
        "move": ("they move it to {day2} at {time2}", "{B} moves it to {day2}, {time2}"),
    }[outcome]
    head_1 = "{A} will be {minutes} minutes late for {event} because {cause}"
    head_2 = "because {cause}, {A} comes to {event} {minutes} minutes late"
    scene.summary = join(scene.text(head_1), [scene.text(ends[0]), *first])
    scene.reference_2 = join(scene.text(head_2), [scene.text(ends[1]), *second])
    scene.title = scene.text("{A} late for {event}")
    scene.ask("[How late is {A} in the end?|How many minutes?]", "{minutes} minutes")
    scene.ask("[Why is {A} late?|What happened?]", "because {cause}")
    scene.ask("[What is {A} late for?|What will {A} miss?]", "{A} is late for {event}")
    scene.ask(
        "[What does {B} decide?|What will {B} do?]",
        {"wait": "{B} is waiting {place1}", "start": "{B} is not waiting", "move": "{B} wants {day2} at {time2}"}[
            outcome
        ],
    )
